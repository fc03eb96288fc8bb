"""The HTTP server: OpenAI's interface over one engine. run.py starts it, app.py has the routes."""
