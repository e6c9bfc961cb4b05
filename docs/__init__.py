"""The pages of the site, and what is needed to build them."""
