"""The embedded stack: broker, worker, routers and page as child processes of one command."""
