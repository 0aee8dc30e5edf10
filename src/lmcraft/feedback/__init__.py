"""Human feedback: a store of ratings that loses nothing, agreement among raters, preferences made of what they said.

The store needs the extra `feedback` (pip install 'lmcraft[feedback]'); nothing here is imported before it is used.
"""
