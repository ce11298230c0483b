"""An endpoint with the embeddings API of OpenAI, which serves adapted encoders."""
