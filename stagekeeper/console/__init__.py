"""The program behind `stagekeeper page`: the page, and the desk through which it acts."""
