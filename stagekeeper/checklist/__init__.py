"""The ten points that must hold before an action reaches production."""
