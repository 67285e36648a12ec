"""The portal's operations over HTTP, short: read the request, call what does it, show the result."""
