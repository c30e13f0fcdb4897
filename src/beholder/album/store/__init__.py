"""The album's SQLite database. All SQL is here, but for the conditions that `beholder.album.filters` compiles.

Pictures are files; what they show is identified by the hash of their bytes (*content*), so a copy or a moved file is
nothing new. Embeddings belong to a content and a model. Every value is bound, never pasted into SQL.
"""
