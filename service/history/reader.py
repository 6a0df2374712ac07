"""Reads histories for requests: one connection, many requests per round trip.

Interface (being filled in):

    store = HistoryStore(url, schema, history_length=1000, lag_s=0, timeout_s=0.05, on_state=callback)
    store.start()                                  # inside the running loop; returns at once, Redis up or not
    await store.wait(timeout_s)  -> StoreState     # until it is ready, or has a problem, or time is up
    await store.fetch(user_key, at, deadline=None) -> History    # user_key 0 = anonymous; never raises
    store.state -> StoreState
    await store.close()
"""
