"""Gate files: policy as code, its schema, its lint and its versions in the lake."""
