"""The bundled starter model."""
