from tests.bundles import X
