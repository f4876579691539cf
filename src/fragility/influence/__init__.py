"""Which training images made a prediction, and attacks on that answer [Koh2017], [Ghorbani2019, eq. 1 and 2]."""

from fragility.influence.last_layer import LastLayerInfluence as LastLayerInfluence
from fragility.influence.whole_network import network_influence as network_influence
