"""The ads: raw features in Redis, encoded columns in memory. Knows no HTTP, no history, no graph.

catalogue = Catalogue(url, encoder)
catalogue.start()                              # fills in the background, then follows changes
await catalogue.wait(timeout_s)                # True once the first fill is done
columns = catalogue.columns_for(ids)           # AdColumns(tensors={"ad_<f>": [N]}, unknown=how many)
catalogue.raw(ad_id)                           # raw features: for overrides and display names
"""

from service.catalog.follower import Catalogue
from service.catalog.table import AdColumns, AdTable

__all__ = ["AdColumns", "AdTable", "Catalogue"]
