"""Floor 7: the explorer, one page with sliders: served on this machine, in a notebook, as a file.

`session` answers what the page asks, `server` and `widget` carry questions and answers, `static`
writes a page that answers itself; the page stands in the folder `front`.
"""
