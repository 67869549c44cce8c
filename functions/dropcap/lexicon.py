"""The words by which witnesses.py compares: what people name most often in pictures, and no more.

Beside them what a word is: its kinds in the tree of things, its singular, one form for all that are alike.
"""

from functools import cache, lru_cache


def words(text: str) -> frozenset[str]:
    """The words of a text, a space between each two."""
    return frozenset(text.split())


def _map(pairs: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in pairs.split())


# Kinds of which one excludes another: what is a dog is no cat. Of what lies about in a picture (furniture,
# clothes, tableware) one does not: a description that names a table says nothing against a chair.
EXCLUSIVE = words("animal person vehicle food instrument")

# A parent, and its children between semicolons. The first word of a child is its name, the others are
# synonyms, or kinds of it that nobody needs to tell apart here; a child may have children of its own.
THINGS = """
animal: animal creature pet wildlife beast; mammal; reptile; insect; rodent; bird
mammal: dog puppy pup canine hound terrier retriever labrador collie poodle bulldog beagle spaniel corgi
  husky dachshund chihuahua pug dalmatian; cat kitten kitty feline tabby tomcat; lion lioness cub; tiger;
  leopard cheetah jaguar panther; bear grizzly; panda; pig piglet hog boar swine; monkey ape gorilla
  chimpanzee orangutan baboon; rabbit bunny hare; fox; wolf; elephant; horse pony stallion mare foal colt;
  donkey mule; zebra; giraffe; cow bull calf cattle ox heifer bison buffalo; sheep lamb ram ewe; goat; deer
  stag doe elk reindeer; moose; antelope gazelle; camel; llama alpaca; kangaroo; koala; hippo hippopotamus;
  rhino rhinoceros; dolphin porpoise; whale orca; seal walrus sealion; otter; bat; raccoon; hedgehog; sloth
rodent: mouse rat; squirrel chipmunk; hamster guineapig; beaver
bird: duck mallard duckling; owl; penguin; chicken hen rooster chick; goose; swan; parrot macaw parakeet
  cockatoo; eagle hawk falcon; seagull gull; pigeon dove; sparrow finch; robin; crow raven; peacock;
  flamingo; pelican; heron crane stork egret; ostrich emu; turkey; hummingbird; woodpecker; toucan
reptile: turtle tortoise; snake serpent python cobra; lizard gecko iguana chameleon; crocodile alligator;
  dinosaur; frog toad; fish goldfish trout carp clownfish; shark; octopus squid; crab; lobster; jellyfish;
  starfish; shrimp prawn; snail slug
insect: butterfly moth; bee bumblebee honeybee; wasp hornet; ant; ladybug ladybird; beetle; housefly;
  dragonfly; grasshopper cricket; spider; caterpillar; mosquito
person: person people human individual figure pedestrian passenger adult child kid toddler baby infant
  teenager friend couple family crowd audience group team tourist worker student rider cyclist biker
  motorcyclist driver surfer skier snowboarder skateboarder skater player batter pitcher catcher umpire chef
  cook waiter farmer soldier officer doctor nurse teacher musician guitarist dancer singer runner swimmer
  hiker climber shopper vendor spectator bride groom athlete performer artist photographer somebody someone
  everyone everybody member guest parent fisherman businessman goalkeeper golfer; male; female
male: man guy gentleman boy father dad son brother husband king
female: woman lady girl mother mom daughter sister wife queen
vehicle: vehicle; car automobile sedan suv taxi cab coupe convertible hatchback jeep limousine van; truck
  lorry pickup van firetruck; bus minibus van; train locomotive tram subway streetcar; bicycle bike cycle;
  motorcycle bike motorbike scooter moped; boat ship sailboat yacht canoe kayak rowboat ferry vessel raft
  gondola; airplane plane aircraft jet airliner aeroplane biplane; helicopter; rocket spaceship spacecraft
  shuttle; tractor; carriage wagon cart; airballoon
food: food meal cuisine snack; fruit; vegetable; dessert pastry; pizza; sandwich burger hamburger
  cheeseburger bagel toast; hotdog sausage; pasta spaghetti noodle macaroni; soup stew; salad; sushi; rice;
  steak; bread loaf baguette; egg omelet; fries chip; taco burrito
fruit: apple; banana plantain; orange tangerine mandarin clementine; pear; strawberry; pineapple; watermelon
  melon; cherry; lemon lime; grape; peach apricot nectarine; mango; kiwi; grapefruit; blueberry; raspberry;
  plum; pomegranate; avocado; coconut; berry
vegetable: carrot; broccoli; tomato; potato; cucumber; cabbage; cauliflower; corn; pumpkin; onion; lettuce;
  eggplant; asparagus; bean; pea
dessert: cake cupcake cheesecake; pie; donut doughnut; cookie biscuit; icecream; muffin; croissant; pancake;
  waffle; chocolate
instrument: instrument; guitar ukulele banjo; violin fiddle viola cello; piano; drum; trumpet trombone;
  saxophone; flute; harp; accordion
plant: plant houseplant bush shrub; tree palm oak pine fir birch willow; flower blossom bloom bouquet rose
  tulip daisy sunflower lily orchid peony poppy; cactus succulent; mushroom toadstool fungus; leaf foliage
building: building skyscraper; house home cottage cabin villa mansion hut; tower; church cathedral chapel;
  temple; castle palace; barn; bridge; lighthouse
object: umbrella parasol; clock wristwatch timepiece; book notebook novel paperback hardcover; key; ball
  football basketball baseball soccerball; frisbee; kite; surfboard; skateboard; snowboard; ski; racket
  racquet; bat; glove; crown tiara; hat cap beanie helmet; shoe sneaker boot sandal; heart; star; sun; moon
  crescent; cloud; teddybear; toy doll; laptop computer notebook; phone smartphone cellphone telephone;
  television tv; camera; keyboard; headphone; lamp; candle; vase; bottle; cup mug; glass wineglass; bowl;
  plate; basket; box; suitcase luggage; bag backpack purse handbag; chair armchair stool; couch sofa settee
  loveseat; bed; table desk; bench; refrigerator fridge; stove oven; sink; toilet; mirror; window; door;
  sign stopsign; hydrant; trafficlight; statue sculpture; flag; balloon; scissors; knife; fork; spoon
setting: background backdrop; field meadow pasture; grass lawn; street road; beach shore; ocean sea; sky;
  wall; room; floor; ground; snow; water; shirt tshirt; dress gown; jacket coat; tie necktie; hair; board
"""

# Plurals that no rule makes.
PLURALS = _map(
    """
    men=man women=woman children=child people=people geese=goose mice=mouse feet=foot teeth=tooth oxen=ox
    cacti=cactus fungi=fungus octopi=octopus calves=calf wolves=wolf loaves=loaf knives=knife leaves=leaf
    gentlemen=gentleman firemen=fireman businessmen=businessman fishermen=fisherman
    """
)

# Two words that are one thing, so that a hot dog is no dog.
JOINED = (
    "teddy bear", "hot dog", "ice cream", "cell phone", "smart phone", "traffic light", "stop sign",
    "guinea pig", "sea lion", "air balloon", "fire truck", "soccer ball", "wine glass", "surf board",
    "skate board", "snow board", "sun flower", "t shirt", "bull dog",
)  # fmt: skip

# Each colour with those that people, and models, take it for: between these nothing is contradicted.
COLOURS = {
    "white": words("cream beige ivory silver"),
    "gray": words("silver"),
    "black": words(""),
    "red": words("pink orange maroon"),
    "pink": words("red magenta"),
    "orange": words("red yellow brown gold tan"),
    "yellow": words("orange gold beige cream blond tan"),
    "green": words("turquoise olive"),
    "blue": words("turquoise purple"),
    "purple": words("blue magenta maroon"),
    "brown": words("orange tan beige gold maroon blond"),
    "turquoise": words("green blue"),
    "tan": words("brown beige yellow orange"),
    "beige": words("tan white cream brown yellow"),
    "cream": words("white beige yellow"),
    "gold": words("yellow brown orange blond"),
    "silver": words("gray white"),
    "magenta": words("pink purple"),
    "maroon": words("red brown purple"),
    "olive": words("green brown"),
    "blond": words("yellow gold brown"),
    "ivory": words("white cream beige"),
}
COLOUR_NAMES = _map(
    """
    grey=gray golden=gold violet=purple lavender=purple lilac=purple teal=turquoise cyan=turquoise
    aqua=turquoise navy=blue crimson=red scarlet=red burgundy=maroon fuchsia=magenta blonde=blond
    chestnut=brown ginger=orange charcoal=gray mint=green lime=green indigo=blue azure=blue khaki=tan
    amber=orange reddish=red bluish=blue greenish=green yellowish=yellow brownish=brown greyish=gray
    grayish=gray pinkish=pink purplish=purple
    """
)
SHADES = _map("light=white pale=white dark=black deep=black")
ANY_COLOUR = words("colorful colourful multicolored multicoloured rainbow striped patterned spotted")

# From, and to at most: None is any number.
NUMBERS: dict[str, tuple[int, int | None]] = {
    word: (low, high)
    for low, high, names in (
        (1, 1, "a an another one single lone"),
        (2, 2, "both two pair"),
        (2, 3, "couple"),
        (3, 3, "three"),
        (4, 4, "four"),
        (5, 5, "five"),
        (6, 6, "six"),
        (7, 7, "seven"),
        (8, 8, "eight"),
        (9, 9, "nine"),
        (10, 10, "ten"),
        (10, None, "dozen"),
        (20, None, "dozens"),
        (2, None, "several few various multiple group herd flock row pack"),
        (1, None, "some bunch pile stack bowl plate basket slice piece cup mug glass"),
        (3, None, "many numerous"),
        (0, 0, "no"),
    )
    for word in names.split()
}
# Nouns that only count what follows "of".
OF = words(
    "pair couple dozen group herd flock bunch row pile stack pack bowl plate basket slice piece cup mug glass"
)

# Words of other kinds that say the same: only the score asks them.
ALIKE = """
sit seat rest perch
lie lay laying recline sprawl nap sleep stretch
stand pose
walk stroll wander
run gallop sprint dash race
hold carry grip clutch
ride
eat graze feed munch chew
fly soar hover
jump leap air
look gaze stare watch face
park stop wait
drive travel pass move
next beside near alongside adjacent by side
large big huge giant massive tall
small little tiny miniature
young youthful
old vintage antique aged
top over above atop
under below beneath underneath
front before
behind back
play match game
field meadow pasture grassland savanna
picture photo photograph image
lush green
wear dress
wooden wood
city urban town
"""

# What ends a group of words and is no content of its own.
FUNCTION = words(
    """
    about above across after against all along alongside also am among and any appear appears are around as
    at atop be been before behind being below beneath beside besides between both but by can could did do
    does down during each either every for from had has have here i if in inside into is it its just least
    less like looks may might more most must my near neither next nor not of off on only onto or our out
    outside over per quite rather seems shall should so such than that the their them then there these they
    this those through to too toward towards under underneath up upon very via was we were what when where
    which while who whom whose will with within without would yet you your
    """
)
# What shows, and is not shown.
META = words(
    "artwork composition drawing frame graphic illustration image photo photograph picture scene shot view"
)

# The commonest function words of other languages that are no English words.
FOREIGN = words(
    """
    aan ao auf av avec az bir che com con da dans das de del della dem den der des det di die du e een egy
    ein eine einem einen einer el em er es est et ett gli het il im ist ja la las le les lo los med met mit
    na naast neben nel nie o och og op os para por sobre su sur til um uma un una und une van ve von vor w y
    z zu
    """
)


@cache
def tree() -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]], dict[str, str]]:
    """Kinds of each word, ancestors of each kind (itself among them), one form of words that are alike."""
    kinds: dict[str, frozenset[str]] = {}
    ancestors: dict[str, frozenset[str]] = {}
    for line in THINGS.replace("\n  ", " ").strip().splitlines():
        parent, children = line.split(": ")
        above = ancestors.get(parent, frozenset((parent,)))
        for child in children.split(";"):
            name, *others = child.split()
            kind = name if name not in ancestors else f"{name} ({parent})"  # a bat flies, or hits a ball
            ancestors[kind] = above | {kind}
            for word in (name, *others):
                kinds[word] = kinds.get(word, frozenset()) | {kind}
    alike = {word: group.split()[0] for group in ALIKE.strip().splitlines() for word in group.split()}
    return kinds, ancestors, alike


@lru_cache(4096)
def singular(word: str) -> tuple[str, bool]:
    """A noun without its plural, and whether it had one."""
    kinds = tree()[0]
    if word in PLURALS:
        return PLURALS[word], True
    if word in kinds or word.endswith(("ss", "us", "is")) or not word.endswith("s") or len(word) < 4:
        return word, False
    for form in (word[:-1], word[:-2], word[:-3] + "y"):
        if form in kinds or form in OF:
            return form, True
    return (word[:-3] + "y" if word.endswith("ies") else word[:-1]), True


@lru_cache(4096)
def stem(word: str) -> str:
    """One form of a word and what is alike: "sits", "sitting" and "seated" are "sit"."""
    alike = tree()[2]
    word = singular(word)[0]
    forms = [word]
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            bare = word[: -len(ending)]
            forms = [word, bare, bare + "e", bare[:-1] if bare[-1] == bare[-2] else bare]
    return next((alike[form] for form in forms if form in alike), forms[-1].rstrip("e"))
