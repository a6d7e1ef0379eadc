"""The SSH user-certificate authority: policy, signing, audit. Nothing else runs here."""
