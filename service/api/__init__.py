"""HTTP: bodies in, answers and problem details out. The only home of FastAPI beside `wiring`."""
