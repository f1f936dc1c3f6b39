"""Pictures, videos and audio, by path, LMDB key or place in a data file.

    table_rows.py  rows of Parquet and Arrow files by number
    delimited.py   CSV and TSV as JSON lines
    text_files.py  text that is compressed or in another encoding, as UTF-8
    row_values.py  rows of tables as Python values, in bounded time and memory
    row_media.py   media inside the rows of a data file
    places.py  where media really lie, and within which bounds
    archives.py  files inside a zip or tar
    changed_media.py  media that are no longer what a store says of them
    gathered.py  media stores: files by content, which rows of any store refer to
    along.py     media stores pushed and pulled with a store that refers to them
    downloads.py  media by http(s), from hosts that the user names
    public_hosts.py  which addresses are of the public network
    mock_media.py  media that are made when they are read
    rules.py   what a run lets its media be
    file_state.py  whether files may have changed, told without reading them
    files.py   bytes behind a uri, and cheap content digests
    lmdb_file.py  values of an LMDB, every number of a page checked
    image.py   a picture's header, its completeness, and its RGB pixels
    image_formats.py  which formats are opened, told by content
    library_words.py  what a library says of a file, as a reject may hold it
    jpeg.py    plain JPEGs past Pillow, to the same pixels
    video.py   a video's header and its frames, by one of
    frames_pyav.py    FFmpeg (PyAV)
    frames_decord.py  decord, for stores that were frozen with it
    animation.py      Pillow: GIF, animated WebP and PNG
    audio.py   an audio file's header and its waveform (libsndfile)
    audio_header.py  its length where the header and the end prove it
    ffmpeg.py  files opened with FFmpeg (PyAV): containers of a list, whole as their header says
    audio_stream.py  sound by FFmpeg (PyAV): what libsndfile does not read
    segments.py  the part of a file that a row means
    track.py   the sound of a video
    probe.py   Media → Media with its header, or a reject
    decode.py  a shard's media struct → pixels, for the runtime and for the comparison with the real processor

What a pixel *is* (EXIF applied, transparency on white, 16 bits scaled) is decided here once, for preparation and
for training alike.
"""
