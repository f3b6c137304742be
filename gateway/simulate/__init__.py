"""The real pipeline under a virtual clock: what a policy does with a recorded trace. Calls nobody."""
