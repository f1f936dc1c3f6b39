"""A store as one page for the browser, from disk: no server, no network.

    picked_rows.py  which rows are shown: the longest, the shortest, those nearest to the limit, a random sample
    shown_media.py  pictures, strips of frames with their times, waveforms with a player
    shown_rows.py   a row as the page shows it: what the model reads, what of it is trained, its media
    shown_rejects.py  rejects, how far over the limit, and their pictures
    charts.py       histograms and bars as SVG
    page.py         all of it as one HTML file; page.css and page.js are laid into it
    plan_page.py    the plan of a run as a page of charts
    viewing.py      a store, or a source tokenized for it, as a page

Text of the data reaches the page as JSON and is shown by `textContent` alone, under a content security policy that
lets no script run but page.js, so a row cannot script the page.
"""
