"""Everything that imports jupyterhub, traitlets or oauthenticator."""
