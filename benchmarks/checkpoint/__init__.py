"""How the checkpoint that lrclr carries is made."""
