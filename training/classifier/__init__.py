"""Training of the gateway's task classifier: prompts from grammars, a linear fit, calibrated confidence."""
