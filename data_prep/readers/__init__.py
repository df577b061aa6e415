"""One reader for each kind of source: bytes of a file, or a folder, in; raw messages out."""
