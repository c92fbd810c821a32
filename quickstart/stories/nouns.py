"""Things that stories count, as singular and plural, and words for places, days, colors, containers and friends."""


def plural(noun: str) -> str:
    """The regular plural of a noun: dish, dishes; pony, ponies; toy, toys; pen, pens."""
    if noun.endswith(("s", "x", "ch", "sh", "z")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Reads nouns separated by commas; an irregular plural follows a slash."""
    nouns = [noun.strip().split("/") for noun in text.split(",")]
    return tuple((noun[0], noun[1] if len(noun) > 1 else plural(noun[0])) for noun in nouns)


FOODS = _pairs(
    """apple, pear, plum, peach, cherry, grape, lemon, lime, orange, banana, apricot, mango, melon, fig, date, kiwi,
    berry, strawberry, blueberry, raspberry, olive, tomato/tomatoes, potato/potatoes, carrot, onion, pepper, radish,
    cucumber, turnip, bean, pea, nut, walnut, almond, peanut, chestnut, egg, cookie, cracker, biscuit, muffin, bagel,
    bun, roll, pancake, waffle, pretzel, donut, cupcake, brownie, tart, pie, sandwich, burger, pizza, taco, dumpling,
    sausage, candy, lollipop, mint, gumdrop, jellybean, chocolate, truffle, marshmallow, raisin, mushroom, sweet,
    pickle, meatball, nugget, crepe, macaroon, scone, croissant, pastry, mandarin, coconut, pineapple, nectarine"""
)
OBJECTS = _pairs(
    """book, card, coin, marble, pen, shell, sticker, toy, pencil, crayon, marker, brush, ruler, eraser, notebook,
    folder, stamp, envelope, postcard, letter, magazine, comic, map, poster, photo, picture, painting, ticket, badge,
    button, bead, ribbon, bow, string, rope, bell, whistle, drum, flute, guitar, balloon, kite, doll, puppet, puzzle,
    block, brick, tile, stone, pebble, rock, gem, crystal, pearl, ring, necklace, bracelet, watch, clock, lamp, candle,
    lantern, torch, bulb, battery, magnet, key, lock, chain, nail, screw, bolt, hammer, wrench, ladder, shovel,
    rake, seed, flower, rose, tulip, daisy, lily, orchid, leaf/leaves, acorn, pinecone, feather, twig, stick, log,
    plank, plant, cactus, bush, fern, sapling, cup, mug, glass, plate, bowl, fork, spoon, knife/knives, napkin, pot,
    pan, kettle, bottle, can, candlestick, vase, pillow, blanket, towel, curtain, rug, chair, stool, table, bench,
    desk, mirror, frame, broom, mop, sponge, soap, comb, hat, cap, scarf/scarves, glove, mitten, sock,
    shoe, boot, sandal, slipper, shirt, dress, skirt, jacket, coat, sweater, belt, tie, purse, wallet, umbrella,
    ball, bat, racket, puck, skate, sled, helmet, trophy, medal, jersey, dart, frisbee, yo-yo/yo-yos, robot,
    truck, train, plane, boat, ship, canoe, wagon, bike, scooter, wheel, tire, engine, flag, sign, banner, tent,
    compass, telescope, camera, radio, phone, laptop, tablet, cable, disc, record, film, charm, dinosaur, dragon,
    castle, crown, wand, mask, costume, sword, shield, statue, figurine, model, globe, fossil, bone, snail, beetle,
    butterfly, bug, fish/fish, goldfish/goldfish, turtle, frog, duck, chick, hen, rabbit, hamster, kitten, puppy, lamb,
    sheep/sheep, goat, pony, calf/calves, pig, parrot, pigeon, worm, crab, starfish/starfish, lid, cork,
    straw, pin, needle, thread, zipper, patch, quilt, cushion, hook, hinge, pulley, spring, gear, wire, pipe, hose,
    bookmark, diary, calendar, dictionary, atlas, sketch, stencil, token, chip, die/dice, domino/dominoes,
    checker, pawn, jigsaw, game, brochure, flyer, catalog, label, tag, voucher, coupon, receipt, newspaper, pamphlet"""
)
BOXES = _pairs(
    "box, bag, basket, jar, tray, pack, packet, carton, crate, bin, tin, case, bucket, drawer, sack, chest, pouch, tub"
)
FRIENDS = _pairs(
    "friend, child/children, cousin, neighbor, classmate, student, teammate, player, guest, sister, brother, scout, "
    "camper, visitor, kid, worker"
)
COLORS = ("red", "green", "blue", "yellow", "black", "white", "purple", "orange", "pink", "brown", "gray", "silver")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PLACES = tuple(
    f"the {place}"
    for place in ("market", "store", "park", "school", "library", "fair", "farm", "museum", "zoo", "beach", "garden")
    + ("bakery", "shop", "station", "office", "club", "playground")
)
