"""Source encoders: texts to embeddings on this machine, from sentence-transformers, model2vec and WordLlama files."""
