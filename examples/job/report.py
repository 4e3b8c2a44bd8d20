"""Adds up a file of orders; ends with 1 when a line makes no sense."""

import csv
import os
import sys
from collections import Counter
from decimal import Decimal, InvalidOperation

totals = Counter()
with open(os.environ["ORDERS"], newline="") as file:
    for number, row in enumerate(csv.DictReader(file), start=2):
        try:
            totals[row["customer"]] += Decimal(row["amount"])
        except InvalidOperation:
            print(f"line {number}: `{row['amount']}` is not an amount", file=sys.stderr)
            sys.exit(1)

for customer, total in sorted(totals.items()):
    print(f"{customer:<10} {total:>10}")
print(f"{'total':<10} {sum(totals.values()):>10}")
