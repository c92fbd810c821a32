"""How many more, how many fewer, how much older or longer."""

from ..event import Event


_THINGS = (
    Event(None, "pair", ("{other} has {v=u+x} {things}.",), (
        "{name} has {u} {things}. {other} has {x} more {things} than {name}.",
        "{name} has {u} {things}. {other} has {x} more than {name}.",
        "{name} has {u} {things}, and {other} has {x} more than {name}.",
        "{name} has {u} {things}, and {other} has {x} more.",
        "{name} has {u} {things}, which is {x} fewer than {other} has.",
        "{name} has {u} {things}, {x} fewer than {other}.",
        "{name} owns {u} {things}. {other} owns {x} more.",
        "{other} has {x} more {things} than {name}, who has {u}.",
        "{other} has {x} more {things} than {name}. {name} has {u} {things}.",
        "{name} collects {u} {things}. {other} collects {x} more than that.",
        "{name} buys {u} {things}, and {other} buys {x} more than {name}.",
        "{name} finds {u} {things}. {other} finds {x} more than {name}.",
    )),
    Event(None, "pair", ("{other} has {v=u-x} {things}.",), (
        "{name} has {u} {things}. {other} has {x} fewer {things} than {name}.",
        "{name} has {u} {things}. {other} has {x} fewer than {name}.",
        "{name} has {u} {things}, and {other} has {x} fewer than {name}.",
        "{name} has {u} {things}, and {other} has {x} fewer.",
        "{name} has {u} {things}, which is {x} more than {other} has.",
        "{name} has {u} {things}, {x} more than {other}.",
        "{name} owns {u} {things}. {other} owns {x} fewer.",
        "{other} has {x} fewer {things} than {name}, who has {u}.",
        "{other} has {x} fewer {things} than {name}. {name} has {u} {things}.",
        "{name} collects {u} {things}. {other} collects {x} fewer than that.",
        "{name} buys {u} {things}, and {other} buys {x} fewer than {name}.",
        "{name} finds {u} {things}. {other} finds {x} fewer than {name}.",
    )),
    Event("pair", None, ("{name} has {v=u-v} more {things}.",), (
        "How many more {things} does {name} have than {other}?",
        "How many more does {name} have than {other}?",
        "By how many {things} does {name} have more than {other}?",
        "How many more {things} than {other} does {name} have?",
        "{name} has more {things} than {other}. How many more?",
        "How many {things} must {other} get to have as many as {name}?",
        "How many {things} does {other} need to have as many as {name}?",
        "What is the difference between the {things} of {name} and those of {other}?",
        "How many {things} more does {name} have?",
        "Compared with {other}, how many more {things} does {name} have?",
    )),
    Event("pair", None, ("{name} has {v=v-u} fewer {things}.",), (
        "How many fewer {things} does {name} have than {other}?",
        "How many fewer does {name} have than {other}?",
        "How many {things} does {name} need to have as many as {other}?",
        "How many more {things} does {other} have than {name}?",
        "By how many {things} does {name} have fewer than {other}?",
        "{name} has fewer {things} than {other}. How many fewer?",
        "How many {things} is {name} short of {other}'s number?",
        "How many {things} must {name} get to have as many as {other}?",
        "Compared with {other}, how many fewer {things} does {name} have?",
    )),
    Event("things", None, ("{name} has {v=v-x} more {things}.",), (
        "{other} has {x} {things}. How many more {things} does {name} have than {other}?",
        "{other} only has {x} {things}. How many more does {name} have?",
        "{other} has {x}. How many more {things} does {name} have than {other}?",
        "If {other} has {x} {things}, how many more does {name} have?",
        "How many more {things} does {name} have than {other}, who has {x}?",
        "{other} has just {x} {things}. How many {things} does {other} need to have as many as {name}?",
    )),
    Event("things", None, ("{name} has {v=x-v} fewer {things}.",), (
        "{other} has {x} {things}. How many fewer {things} does {name} have than {other}?",
        "{other} has {x} {things}. How many more {things} does {other} have than {name}?",
        "{other} even has {x} {things}. How many fewer does {name} have?",
        "If {other} has {x} {things}, how many fewer does {name} have?",
        "How many fewer {things} does {name} have than {other}, who has {x}?",
    )),
    Event("things", None, ("{name} needs {v=x-v} more {things}.",), (
        "{name} wants {x} {things} in all. How many more {things} does {name} need?",
        "{name} needs {x} {things}. How many are missing?",
        "How many more {things} does {name} need to have {x}?",
        "{name} would like to have {x} {things}. How many more does {name} need?",
        "The goal is {x} {things}. How many more {things} does {name} need?",
        "How many {things} are missing until {name} has {x}?",
    )),
    Event("things", None, ("{other} has {v=v+x} {things}.",), (
        "{other} has {x} more {things} than {name}. How many {things} does {other} have?",
        "{other} has {x} more. How many {things} does {other} have?",
        "That is {x} fewer than {other} has. How many {things} does {other} have?",
        "{name} has {x} fewer {things} than {other}. How many does {other} have?",
        "How many {things} does {other} have, who has {x} more than {name}?",
    )),
    Event("things", None, ("{other} has {v=v-x} {things}.",), (
        "{other} has {x} fewer {things} than {name}. How many {things} does {other} have?",
        "{other} has {x} fewer. How many {things} does {other} have?",
        "That is {x} more than {other} has. How many {things} does {other} have?",
        "{name} has {x} more {things} than {other}. How many does {other} have?",
        "How many {things} does {other} have, who has {x} fewer than {name}?",
    )),
    Event("pair", None, ("{third} has {v=u+x} {things}.",), (
        "{third} has {x} more {things} than {name}. How many {things} does {third} have?",
        "How many {things} does {third} have, who has {x} more than {name}?",
    )),
    Event("pair", None, ("{third} has {v=v-x} {things}.",), (
        "{third} has {x} fewer {things} than {other}. How many {things} does {third} have?",
        "How many {things} does {third} have, who has {x} fewer than {other}?",
    )),
)  # fmt: skip

_MONEY = (
    Event(None, "purses", ("{other} has {v=u+x} dollars.",), (
        "{name} has {u} dollars. {other} has {x} dollars more than {name}.",
        "{name} has ${u}, and {other} has ${x} more.",
        "{name} has saved {u} dollars, which is {x} dollars less than {other} has saved.",
        "{other} has {x} dollars more than {name}, who has {u} dollars.",
    )),
    Event(None, "purses", ("{other} has {v=u-x} dollars.",), (
        "{name} has {u} dollars. {other} has {x} dollars less than {name}.",
        "{name} has ${u}, and {other} has ${x} less.",
        "{name} has saved {u} dollars, which is {x} dollars more than {other} has saved.",
        "{other} has {x} dollars less than {name}, who has {u} dollars.",
    )),
    Event("purses", None, ("{name} has {v=u-v} dollars more.",), (
        "How many dollars more does {name} have than {other}?",
        "How much more money does {name} have than {other}?",
        "By how many dollars is {name} richer than {other}?",
        "How much more does {name} have than {other}?",
    )),
    Event("purses", None, ("{name} has {v=v-u} dollars less.",), (
        "How many dollars less does {name} have than {other}?",
        "How much less money does {name} have than {other}?",
        "How many dollars does {name} need to have as much as {other}?",
        "How much more does {other} have than {name}?",
    )),
    Event("money", None, ("{name} needs {v=x-v} dollars more.",), (
        "{name} wants a {thing3} that costs {x} dollars. How many dollars more does {name} need?",
        "A {thing3} costs ${x}. How much more money does {name} need to buy it?",
        "{name} needs {x} dollars for a trip. How many dollars are missing?",
        "How many dollars more does {name} need to have {x}?",
        "{name} saves for a {thing3} at {x} dollars. How many dollars are still missing?",
    )),
    Event("money", None, ("{name} has {v=v-x} dollars more.",), (
        "{other} has {x} dollars. How many dollars more does {name} have than {other}?",
        "{other} has ${x}. How much more money does {name} have?",
        "How much more does {name} have than {other}, who has {x} dollars?",
    )),
    Event(None, None, ("The difference is {v=a-b} dollars.",), (
        "A {thing} costs {a} dollars and a {thing2} costs {b} dollars. How much more does the {thing} cost?",
        "How much cheaper is a {thing2} for {b} dollars than a {thing} for {a} dollars?",
        "The price of a {thing} falls from {a} to {b} dollars. By how many dollars is it cheaper?",
        "In one shop a {thing} costs ${a}, in another ${b}. How much does {name} save in the cheaper one?",
        "{name} pays {a} dollars for a {thing}, {other} only {b} dollars. How much more does {name} pay?",
    )),
)  # fmt: skip

_WHOLE = (
    Event(None, None, ("{name} has {v=a-b} more {things}.",), (
        "{name} has {a} {things} and {other} has {b}. How many more {things} does {name} have than {other}?",
        "{name} has {a} {things}. {other} has {b} {things}. How many more {things} does {name} have than {other}?",
        "If {name} has {a} {things} and {other} has {b}, how many more does {name} have?",
        "How many more {things} does {name} have than {other}, if {name} has {a} and {other} has {b}?",
        "{name} sold {a} {things}, {other} sold {b}. How many more did {name} sell?",
    )),
    Event(None, None, ("{other} has {v=b-a} more {things}.",), (
        "{name} has {a} {things}, {other} has {b}. How many more {things} does {other} have?",
        "{name} found {a} {things} and {other} found {b}. How many more did {other} find than {name}?",
        "If {name} has {a} {things} and {other} has {b}, how many more does {other} have than {name}?",
    )),
    Event(None, None, ("There are {v=a-b} more {things}.",), (
        "There are {a} {things} and {b} {things2}. How many more {things} than {things2} are there?",
        "{name} has {a} {things} and {b} {things2}. How many more {things} than {things2} does {name} have?",
        "At {place} there are {a} {things} but only {b} {things2}. How many more {things} are there?",
        "{name} counts {a} {things} and {b} {things2}. By how many do the {things} outnumber the {things2}?",
    )),
    Event(None, None, ("That is {v=a-b} pages more.",), (
        "{name} reads {a} pages and {other} reads {b} pages. How many pages more does {name} read?",
        "A book has {a} pages, another one has {b} pages. How many pages more does the first one have?",
        "On {day} {name} reads {a} pages, on {day2} {b}. How many pages more does {name} read on {day}?",
    )),
    Event(None, None, ("{name} has {v=a-b} pages left.",), (
        "A book has {a} pages. {name} has read {b} of them. How many pages are left?",
        "{name} has read {b} of {a} pages. How many pages does {name} still have to read?",
    )),
    Event(None, None, ("It is {v=a-b} degrees warmer.",), (
        "On {day} it was {b} degrees, on {day2} it is {a} degrees. How many degrees warmer is it on {day2}?",
        "Inside it is {a} degrees, outside {b}. How many degrees warmer is it inside?",
    ), ranges={"a": (5, 40), "b": (2, 30)}),
    Event(None, None, ("The way is {v=a-b} km longer.",), (
        "{name} walks {a} km, and {other} walks {b} km. How many km farther does {name} walk?",
        "One way to {place} is {a} km long, the other {b} km. How many km longer is the first?",
        "{name} lives {a} km from {place}, {other} only {b} km. How many km farther is the way of {name}?",
    )),
    Event(None, None, ("{other} has {p=a+b} {things}.", "{third} has {v=p+c} {things}."), (
        "{name} has {a} {things}. {other} has {b} more than {name}, and {third} has {c} more than {other}. "
        "How many {things} does {third} have?",
        "{third} has {c} more {things} than {other}, and {other} has {b} more than {name}. {name} has {a}. "
        "How many {things} does {third} have?",
    )),
    Event(None, None, ("{other} has {p=a-b} {things}.", "{third} has {v=p-c} {things}."), (
        "{name} has {a} {things}. {other} has {b} fewer than {name}, and {third} has {c} fewer than {other}. "
        "How many {things} does {third} have?",
        "{third} has {c} fewer {things} than {other}, and {other} has {b} fewer than {name}. {name} has {a}. "
        "How many {things} does {third} have?",
    )),
    Event(None, None, ("{other} has {p=a+b} {things}.", "{third} has {v=p-c} {things}."), (
        "{name} has {a} {things}. {other} has {b} more than {name}, and {third} has {c} fewer than {other}. "
        "How many {things} does {third} have?",
        "{name} has {a} {things}, {other} has {b} more, and {third} has {c} fewer than {other}. "
        "How many {things} does {third} have?",
    )),
    Event(None, None, ("{name} needs {v=a-b} more {things}.",), (
        "{name} has {b} {things} and wants {a}. How many more {things} does {name} need?",
        "{name} needs {a} {things} and has {b}. How many are missing?",
        "How many more {things} does {name} need, who has {b} and wants to have {a}?",
        "{name} has {b} of the {a} {things} that are needed. How many {things} are missing?",
    )),
    Event(None, None, ("{other} is {v=a+b} years old.",), (
        "{name} is {a} years old. {other} is {b} years older. How old is {other}?",
        "{name} is {a} years old and {b} years younger than {other}. How old is {other}?",
        "How old is {other}, who is {b} years older than {name}, if {name} is {a}?",
        "{other} is {b} years older than {name}, who is {a}. How old is {other}?",
    ), ranges={"a": (5, 60), "b": (2, 40)}),
    Event(None, None, ("{other} is {v=a-b} years old.",), (
        "{name} is {a} years old. {other} is {b} years younger. How old is {other}?",
        "{name} is {a} years old and {b} years older than {other}. How old is {other}?",
        "{other} is {b} years younger than {name}, who is {a}. How old is {other}?",
    ), ranges={"a": (8, 90), "b": (2, 40)}),
    Event(None, None, ("{name} is {v=a-b} years older.",), (
        "{name} is {a} years old and {other} is {b}. How many years older is {name}?",
        "{name} is {a}, {other} is {b} years old. By how many years is {name} older than {other}?",
        "How many years older than {other} is {name}, if {name} is {a} and {other} is {b}?",
    ), ranges={"a": (8, 90), "b": (5, 60)}),
    Event(None, None, ("{name} will be {v=a+b} years old.",), (
        "{name} is {a} years old. How old will {name} be in {b} years?",
        "How old will {name} be in {b} years, if {name} is {a} now?",
    ), ranges={"a": (5, 60), "b": (2, 40)}),
    Event(None, None, ("The difference is {v=a-b} cm.",), (
        "{name} is {a} cm tall and {other} is {b} cm tall. How many cm taller is {name}?",
        "A red ribbon is {a} cm long, a blue one {b} cm. How many cm longer is the red ribbon?",
        "One plant is {a} cm high, another {b} cm. What is the difference in cm?",
        "{name} jumps {a} cm, and {other} jumps {b} cm. How many cm farther does {name} jump?",
    )),
    Event(None, None, ("The difference is {v=a-b} points.",), (
        "{name} scores {a} points and {other} {b}. By how many points does {name} win?",
        "The game ends {a} to {b} for {name}. By how many points does {name} win?",
        "{other} has {b} points, {name} has {a}. How many points is {other} behind?",
    )),
    Event(None, None, ("{other} has {p=a+b} {things}.", "Together they have {v=a+p} {things}."), (
        "{name} has {a} {things}. {other} has {b} more than {name}. How many do they have altogether?",
        "{name} has {a} {things}, and {other} has {b} more. How many {things} do they have together?",
        "{other} has {b} more {things} than {name}, who has {a}. How many {things} do the two have in all?",
    )),
    Event(None, None, ("{other} has {p=a-b} {things}.", "Together they have {v=a+p} {things}."), (
        "{name} has {a} {things}. {other} has {b} fewer than {name}. How many do they have altogether?",
        "{name} has {a} {things}, and {other} has {b} fewer. How many {things} do they have together?",
        "{other} has {b} fewer {things} than {name}, who has {a}. How many {things} do the two have in all?",
    )),
)  # fmt: skip

EVENTS = (*_THINGS, *_MONEY, *_WHOLE)
