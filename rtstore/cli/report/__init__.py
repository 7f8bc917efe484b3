"""The page of `rtstore report`: what it tells, what is left out of it, how it is drawn.

`gather` reads the facts of a directory, `redact` leaves the values out of them, `chart` places
batches in time, `page` writes the HTML of `page.html`.
"""
