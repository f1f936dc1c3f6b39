"""Sources whose rows are not written down as rows: they are, once, as JSON lines in the cache; then all is as usual.

    derived_rows   which form a source has, and the JSON lines that are made of it
    tar_rows       WebDataset tars: the files of one name are a row, media stay where they are (`shard.tar::0001.jpg`)
    nemo_tars      NeMo's manifests of sounds in tars
    energon        Energon's field maps, and its metadatasets as a meta file
    folder_rows    folders of pictures with texts beside them, or in folders by class
    speech_layouts LibriSpeech, AISHELL, FLEURS, GigaSpeech and others as they are unpacked
    sql_rows       SQLite tables, as Parquet
    lance_rows     Lance tables, as Parquet
    table_copy     where such Parquet lies
    other_tools    descriptions of LLaMA-Factory, as a meta file
    axolotl        those of axolotl

What is made says only what the source says, with media by paths from its folder, so its digest is that of the content.
"""
