"""A run as a web service: predictions over HTTP, with a form to try one case. Needs the extra `serve`."""
