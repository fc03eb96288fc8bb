from pyllm.shapes import write_model, write_shape  # noqa: F401
