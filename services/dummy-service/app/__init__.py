"""A service that pretends to be a worker: for the tests of a cluster, a broker, or the coordinator's healing."""
