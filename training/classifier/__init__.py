"""How the gateway's task classifier was made: prompts written by grammars, a linear fit, a calibrated confidence."""
