"""Containers, rows and groups with the same number of things in each."""

from ..event import Event


_FACTORS = {"a": (2, 30), "b": (2, 60)}

_STEPS = (
    Event(None, "things", ("{name} has {v=a*b} {things}.",), (
        "{name} has {a} {boxes} with {b} {things} in each.",
        "{name} has {a} {boxes} with {b} {things} in each {box}.",
        "{name} has {a} {boxes} of {b} {things}.",
        "{name} has {a} {boxes} of {b} {things} each.",
        "{name} has {a} {boxes}, and each {box} holds {b} {things}.",
        "{name} has {a} {boxes}. There are {b} {things} in each of them.",
        "{name} has {a} {boxes}. Each {box} has {b} {things} in it.",
        "{name} buys {a} {boxes} with {b} {things} each.",
        "{name} buys {a} {boxes} of {b} {things}.",
        "{name} gets {a} {boxes}, each with {b} {things}.",
        "{name} fills {a} {boxes} with {b} {things} each.",
        "There are {b} {things} in a {box}. {name} has {a} {boxes}.",
        "A {box} holds {b} {things}, and {name} has {a} {boxes}.",
        "{name} finds {a} {boxes} that hold {b} {things} each.",
        "{third} gives {name} {a} {boxes} with {b} {things} in each.",
        "{name} opens {a} {boxes} and takes {b} {things} out of each.",
        "{name} keeps {b} {things} in each of {a} {boxes}.",
    ), ranges=_FACTORS),
    Event(None, "things", ("{name} has {v=a*b} {things}.",), (
        "{name} lays out {a} rows of {b} {things}.",
        "{name} puts the {things} in {a} rows with {b} in each row.",
        "{name} has {a} shelves with {b} {things} on each.",
        "On each of {a} shelves {name} has {b} {things}.",
        "{name} makes {a} piles of {b} {things}.",
        "{name} has {a} bundles of {b} {things} each.",
        "{name} sets {a} tables with {b} {things} on each table.",
        "{name} sorts {things} into {a} groups of {b}.",
        "{name} sticks pictures of {things} into an album, {b} on each of {a} pages.",
        "{name} stacks {things}: {a} stacks of {b}.",
        "{a} friends each give {name} {b} {things}.",
        "{name} gets {b} {things} from each of {a} friends.",
    ), ranges=_FACTORS),
    Event(None, "things", ("The {boxes} hold {p=a*b} {things}.", "{name} has {v=p+c} {things}."), (
        "{name} has {a} {boxes} with {b} {things} in each and {c} more {things}.",
        "{name} has {a} {boxes} of {b} {things} and {c} loose {things}.",
        "{name} has {c} {things} on a table and {a} {boxes} with {b} {things} each.",
        "{name} buys {a} {boxes} of {b} {things} and gets {c} more for free.",
        "{name} has {a} {boxes}. Each {box} holds {b} {things}. {name} has {c} more {things} at home.",
        "Besides {a} {boxes} of {b} {things}, {name} has {c} single {things}.",
    ), ranges={"a": (2, 12), "b": (2, 30)}),
    Event(None, "things", ("The {boxes} hold {p=a*b} {things}.", "{name} has {v=p-c} {things} left."), (
        "{name} has {a} {boxes} with {b} {things} in each, but {c} of the {things} get lost.",
        "{name} buys {a} {boxes} of {b} {things} and gives {c} {things} away.",
        "{name} had {a} {boxes} with {b} {things} each and lost {c} {things}.",
        "From the {a} {boxes} of {b} {things} that {name} has, {third} takes {c} {things}.",
        "{name} opens {a} {boxes} with {b} {things} each and uses {c} of them.",
    ), ranges={"a": (2, 12), "b": (2, 30)}),
    Event(None, "things", (
        "The red {boxes} hold {p=a*b} {things}.",
        "The blue {boxes} hold {q=c*d} {things}.",
        "{name} has {v=p+q} {things}.",
    ), (
        "{name} has {a} red {boxes} with {b} {things} each and {c} blue {boxes} with {d} {things} each.",
        "{name} has {a} red {boxes} of {b} {things} and {c} blue {boxes} of {d} {things}.",
        "{name} fills {a} red {boxes} with {b} {things} each. Each of {c} blue {boxes} gets {d} {things}.",
        "There are {a} red {boxes} and {c} blue {boxes}. {name} has {b} {things} in each red {box} "
        "and {d} in each blue {box}.",
    ), ranges={"a": (2, 12), "b": (2, 30), "c": (2, 12), "d": (2, 30)}),
    Event(None, "things", (
        "The first {boxes} hold {p=a*b} {things}.",
        "The other {boxes} hold {q=c*d} {things}.",
        "{name} has {v=p+q} {things}.",
    ), (
        "{name} buys {a} {boxes} of {b} {things} and {c} {boxes} of {d} {things}.",
        "{name} has {a} {boxes} with {b} {things} each and {c} {boxes} with {d} {things} each.",
        "{name} gets {a} {boxes} of {b} {things} from {third} and {c} {boxes} of {d} {things} from {bystander}.",
        "{a} {boxes} of {name} hold {b} {things} each, and {c} other {boxes} hold {d} each.",
        "{name} fills {a} {boxes} with {b} {things} each, then {c} {boxes} with {d} each.",
    ), ranges={"a": (2, 12), "b": (2, 30), "c": (2, 12), "d": (2, 30)}),
    Event(None, "cost", ("The {boxes} cost {v=a*c} dollars.",), (
        "{name} buys {a} {boxes} of {b} {things}. Each {box} costs {c} dollars.",
        "{name} buys {a} {boxes} with {b} {things} in each. A {box} costs {c} dollars, whatever is in it.",
        "A {box} of {b} {things} costs {c} dollars. {name} buys {a} {boxes}.",
        "{name} pays {c} dollars for each of {a} {boxes}. There are {b} {things} in a {box}.",
        "{b} {things} come in a {box} that costs ${c}, and {name} takes {a} {boxes}.",
    ), ranges={"a": (2, 12), "b": (2, 30), "c": (2, 60)}),
    Event(None, "money", ("{name} gets {v=a*c} dollars.",), (
        "{name} sells {a} {boxes} of {b} {things} for {c} dollars a {box}.",
        "{name} sells {a} {boxes} with {b} {things} each. For each {box} {name} gets {c} dollars.",
        "{third} buys {a} {boxes} of {b} {things} from {name} and pays {c} dollars for each {box}.",
    ), ranges={"a": (2, 12), "b": (2, 30), "c": (2, 60)}),
    Event(None, "things", ("There are {p=a*c} {boxes}.", "{name} has {v=p*b} {things}."), (
        "{name} has {a} shelves with {c} {boxes} on each. Each {box} holds {b} {things}.",
        "{name} has {a} bags. In each bag are {c} {boxes}, and in each {box} are {b} {things}.",
        "{name} buys {c} {boxes} a day for {a} days. A {box} has {b} {things}.",
        "On each of {a} tables {name} puts {c} {boxes} with {b} {things} each.",
        "{a} friends each give {name} {c} {boxes} of {b} {things}.",
    ), ranges={"a": (2, 10), "b": (2, 12), "c": (2, 10)}),
    Event("things", "things", ("The {boxes} hold {p=x*y} {things}.", "Besides these {name} has {v=v-p} {things}."), (
        "{name} puts {y} {things} into each of {x} {boxes} and keeps only the others.",
        "{name} packs {x} {boxes} with {y} {things} each. The other {things} stay outside.",
        "{name} fills {x} {boxes} with {y} {things} each, gives them away and keeps the others.",
    ), ranges={"x": (2, 12), "y": (2, 30)}),
    Event("things", None, ("The {boxes} hold {p=x*y} {things}.", "There are {v=v-p} {things} left over."), (
        "{name} fills {x} {boxes} with {y} {things} each. How many {things} are left over?",
        "{name} puts {y} {things} into each of {x} {boxes}. How many {things} do not fit?",
        "How many {things} are left over when {name} fills {x} {boxes} with {y} {things} each?",
        "{x} {boxes} with room for {y} {things} each are filled. How many {things} stay outside?",
    ), ranges={"x": (2, 12), "y": (2, 30)}),
    Event("things", None, ("The {boxes} hold {p=x*y} {things}.", "There is room for {v=p-v} more {things}."), (
        "{name} has {x} {boxes} with room for {y} {things} each. How many more {things} fit in?",
        "There are {x} {boxes}, and each {box} can hold {y} {things}. How many more {things} could {name} put in?",
        "If {x} {boxes} hold {y} {things} each, how many more {things} does {name} need to fill all {boxes}?",
    ), ranges={"x": (2, 12), "y": (2, 60)}),
    Event("things", "things", ("The {boxes} hold {p=x*y} {things}.", "{name} now has {v=v+p} {things}."), (
        "{name} buys {x} {boxes} of {y} {things}.",
        "{name} buys {x} {boxes} with {y} {things} in each.",
        "Then {name} gets {x} {boxes} with {y} {things} in each.",
        "{third} gives {name} {x} {boxes} that hold {y} {things} each.",
        "{third} brings {x} {boxes} of {y} {things} for {name}.",
        "{name} finds {x} {boxes} with {y} {things} each.",
        "After that {name} opens {x} {boxes} of {y} {things}.",
        "{name} orders {x} {boxes}, each with {y} {things}.",
        "{x} {boxes} with {y} {things} each arrive for {name}.",
    ), ranges={"x": (2, 12), "y": (2, 30)}),
    Event("things", "things", ("The {boxes} hold {p=x*y} {things}.", "{name} has {v=v-p} {things} left."), (
        "{name} gives {x} {boxes} of {y} {things} to {third}.",
        "{name} sells {x} {boxes} with {y} {things} each.",
        "{name} fills {x} {boxes} with {y} {things} each and sends them off.",
        "{third} takes {x} {boxes} of {y} {things}.",
        "{name} loses {x} {boxes}, each with {y} {things}.",
        "{name} packs {x} {boxes} of {y} {things} for {third}.",
        "Then {name} gives away {x} {boxes} with {y} {things} in each.",
    ), ranges={"x": (2, 12), "y": (2, 30)}),
    Event("things", "things", ("The friends get {p=x*y} {things}.", "{name} has {v=v-p} {things} left."), (
        "{name} gives {y} {things} to each of {x} friends.",
        "{x} friends get {y} {things} each from {name}.",
        "{name} hands out {y} {things} to each of {x} friends.",
        "Each of {x} friends takes {y} of the {things}.",
        "{name} has {x} friends and gives {y} {things} to each of these friends.",
    ), ranges={"x": (2, 12), "y": (2, 30)}),
    Event("things", "things", ("The friends bring {p=x*y} {things}.", "{name} now has {v=v+p} {things}."), (
        "{x} friends bring {name} {y} {things} each.",
        "Each of {x} friends gives {name} {y} {things}.",
        "{name} gets {y} more {things} from each of {x} friends.",
        "{x} friends come by. Each gives {name} {y} {things}.",
    ), ranges={"x": (2, 12), "y": (2, 30)}),
    Event("things", None, ("{name} needs {v=v/x} {boxes}.",), (
        "{name} puts them into {boxes} of {x}. How many {boxes} does {name} need?",
        "{name} packs {x} {things} into each {box}. How many {boxes} does {name} fill?",
        "Each {box} holds {x} {things}. How many {boxes} does {name} need?",
        "{name} puts {x} {things} into each {box}. How many {boxes} are needed?",
        "If {x} {things} fit into a {box}, how many {boxes} does {name} need?",
        "A {box} has room for {x} {things}. How many {boxes} does {name} need for all of them?",
        "{name} packs all {things} in {boxes} of {x}. How many {boxes} are there?",
        "How many {boxes} of {x} can {name} fill?",
        "How many {boxes} does {name} need if each holds {x} {things}?",
    ), ranges={"x": (2, 20)}),
    Event("things", None, ("There are {v=v/x} rows.",), (
        "{name} lays them in rows of {x}. How many rows are there?",
        "{name} puts {x} {things} in each row. How many rows does {name} get?",
        "How many rows of {x} {things} can {name} make?",
        "{name} sets all the {things} up in rows of {x}. How many rows are there?",
    ), ranges={"x": (2, 20)}),
    Event("things", None, ("There are {v=v/x} groups.",), (
        "{name} sorts them into groups of {x}. How many groups are there?",
        "{name} makes groups of {x} {things}. How many groups does {name} get?",
        "How many groups of {x} {things} can {name} make?",
        "With {x} {things} in each group, how many groups are there?",
    ), ranges={"x": (2, 20)}),
    Event("things", None, ("Each {box} holds {v=v/x} {things}.",), (
        "{name} packs them equally into {x} {boxes}. How many {things} are in each {box}?",
        "{name} puts the same number into each of {x} {boxes}. How many {things} does one {box} hold?",
        "{name} divides the {things} equally among {x} {boxes}. How many {things} are in each {box}?",
        "{name} fills {x} {boxes} with the same number of {things}. How many {things} does each {box} hold?",
        "All {things} go into {x} {boxes}, the same number in each. How many are in one {box}?",
        "How many {things} are in each {box} if {name} packs them equally into {x} {boxes}?",
        "{x} {boxes} get the same number of {things}. How many is that for each {box}?",
    ), ranges={"x": (2, 20)}),
    Event("things", None, ("There are {v=v/x} {things} on each shelf.",), (
        "{name} puts them on {x} shelves, the same number on each. How many {things} are on each shelf?",
        "{name} divides the {things} equally among {x} shelves. How many are on one shelf?",
        "How many {things} are on each shelf if {name} spreads them equally over {x} shelves?",
    ), ranges={"x": (2, 20)}),
    Event("people", None, ("That makes {v=v/x} tables.",), (
        "At each table sit {x} people. How many tables are there?",
        "{x} people fit at a table. How many tables are needed?",
        "How many tables for {x} people each are needed?",
    ), ranges={"x": (2, 20)}),
    Event("people", None, ("That makes {v=v/x} teams.",), (
        "They form teams of {x}. How many teams are there?",
        "Each team has {x} people. How many teams are there?",
        "How many teams of {x} can be made?",
    ), ranges={"x": (2, 20)}),
    Event(None, "people", ("There are {v=a*b} people.",), (
        "There are {a} tables with {b} people at each.",
        "{a} teams of {b} people meet.",
        "A train has {a} cars with {b} people in each.",
        "{a} buses with {b} people each arrive at {place}.",
        "At {place} there are {a} rows with {b} people in each row.",
        "There are {a} boats, and {b} people sit in each.",
    ), ranges=_FACTORS),
)  # fmt: skip

_WHOLE = (
    Event(None, None, ("There are {v=a*b} {things}.",), (
        "There are {a} {boxes} with {b} {things} each. How many {things} are there?",
        "There are {a} {boxes} with {b} {things} in each. How many {things} are there in all?",
        "How many {things} are in {a} {boxes} with {b} {things} each?",
        "If a {box} holds {b} {things}, how many {things} are in {a} {boxes}?",
        "A {box} has {b} {things}. How many {things} do {a} {boxes} have?",
        "Each of {a} {boxes} holds {b} {things}. How many {things} is that altogether?",
        "There are {a} rows of {b} {things}. How many {things} are there?",
        "{a} shelves hold {b} {things} each. How many {things} are on the shelves?",
        "How many {things} are there in {a} groups of {b}?",
        "A page shows {b} {things}. How many {things} do {a} pages show?",
    ), ranges=_FACTORS),
    Event(None, None, ("There are {v=a/b} {boxes}.",), (
        "{a} {things} are packed in {boxes} of {b}. How many {boxes} are there?",
        "How many {boxes} are needed for {a} {things} if each {box} holds {b}?",
        "{name} has {a} {things} and puts {b} into each {box}. How many {boxes} does {name} need?",
        "{b} {things} fit into a {box}. How many {boxes} do {a} {things} fill?",
    ), ranges={"b": (2, 20)}),
    Event(None, None, ("There are {v=a/b} {things} in each {box}.",), (
        "{name} puts {a} {things} into {b} {boxes}, the same number in each. How many are in each {box}?",
        "If {b} {boxes} hold {a} {things}, the same number each, how many {things} are in one {box}?",
        "There are {a} {things} in {b} equal {boxes}. How many {things} are in one {box}?",
    ), ranges={"b": (2, 20)}),
    Event(None, None, ("The full {boxes} hold {p=a*b} {things}.", "There are {v=p+c} {things}."), (
        "There are {a} full {boxes} with {b} {things} each and one {box} with only {c}. How many {things} are there?",
        "{name} fills {a} {boxes} with {b} {things} each, and {c} {things} are left over. "
        "How many {things} does {name} have?",
        "{a} {boxes} are full with {b} {things} each. Beside them lie {c} more {things}. "
        "How many {things} are there?",
    ), ranges={"a": (2, 12), "b": (2, 60)}),
    Event(None, None, ("{name} packs {p=a-b} {things}.", "{name} needs {v=p/c} {boxes}."), (
        "{name} has {a} {things} and keeps {b}. The others go into {boxes} of {c}. How many {boxes} does {name} need?",
        "Of {a} {things} {name} gives {b} away and packs the rest in {boxes} of {c}. How many {boxes} are there?",
        "{name} has {a} {things}, loses {b} and puts {c} into each {box}. How many {boxes} does {name} fill?",
    ), ranges={"c": (2, 20)}),
)  # fmt: skip

EVENTS = (*_STEPS, *_WHOLE)
