"""Print the sum of each product's sales as CSV."""

import csv
import json
import os
import sys
from collections import Counter

sums: Counter[str] = Counter()
for sale in json.loads(os.environ["SALES"]):
    sums[sale["product"]] += sale["amount"]
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(["product", "amount"])
writer.writerows(sorted(sums.items()))
