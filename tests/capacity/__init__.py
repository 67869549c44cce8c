"""`make scaling`: which limit a growing load meets first, computed from measured inputs."""
