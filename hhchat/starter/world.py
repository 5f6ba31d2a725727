"""What the starter model can know: small tables of facts, one row a line, fields split by '|'."""

from __future__ import annotations


def rows(table: str) -> tuple[tuple[str, ...], ...]:
    """The non-empty lines of a table as tuples of stripped fields."""
    lines = (line.strip() for line in table.splitlines())
    return tuple(tuple(cell.strip() for cell in line.split("|")) for line in lines if line)


# country | capital | continent | language
COUNTRIES = rows("""
France|Paris|Europe|French
Italy|Rome|Europe|Italian
Spain|Madrid|Europe|Spanish
Germany|Berlin|Europe|German
Portugal|Lisbon|Europe|Portuguese
Greece|Athens|Europe|Greek
Poland|Warsaw|Europe|Polish
Austria|Vienna|Europe|German
Sweden|Stockholm|Europe|Swedish
Norway|Oslo|Europe|Norwegian
Denmark|Copenhagen|Europe|Danish
Finland|Helsinki|Europe|Finnish
Ireland|Dublin|Europe|English
Hungary|Budapest|Europe|Hungarian
Iceland|Reykjavik|Europe|Icelandic
Croatia|Zagreb|Europe|Croatian
Romania|Bucharest|Europe|Romanian
Ukraine|Kyiv|Europe|Ukrainian
Russia|Moscow|Europe|Russian
Japan|Tokyo|Asia|Japanese
China|Beijing|Asia|Chinese
Thailand|Bangkok|Asia|Thai
Vietnam|Hanoi|Asia|Vietnamese
Nepal|Kathmandu|Asia|Nepali
Iran|Tehran|Asia|Persian
Turkey|Ankara|Asia|Turkish
Mongolia|Ulaanbaatar|Asia|Mongolian
Indonesia|Jakarta|Asia|Indonesian
Egypt|Cairo|Africa|Arabic
Morocco|Rabat|Africa|Arabic
Kenya|Nairobi|Africa|Swahili
Ethiopia|Addis Ababa|Africa|Amharic
Ghana|Accra|Africa|English
Senegal|Dakar|Africa|French
Angola|Luanda|Africa|Portuguese
Canada|Ottawa|North America|English
Mexico|Mexico City|North America|Spanish
Cuba|Havana|North America|Spanish
Jamaica|Kingston|North America|English
Brazil|Brasilia|South America|Portuguese
Argentina|Buenos Aires|South America|Spanish
Chile|Santiago|South America|Spanish
Peru|Lima|South America|Spanish
Colombia|Bogota|South America|Spanish
Australia|Canberra|Oceania|English
Fiji|Suva|Oceania|Fijian
""")

# animal | young | food | home | size class (a bigger number is a bigger animal)
ANIMALS = rows("""
dog|puppy|meat and dog food|houses with people|4
cat|kitten|mice and fish|houses with people|3
cow|calf|grass|farms and fields|7
horse|foal|grass and hay|stables and fields|7
pig|piglet|roots and grain|farms|6
sheep|lamb|grass|fields and hills|5
goat|kid|leaves and grass|farms and mountains|5
duck|duckling|water plants|ponds and rivers|3
chicken|chick|seeds and grain|farms|3
goose|gosling|grass and seeds|lakes and fields|3
frog|tadpole|insects|ponds|2
bear|cub|berries and fish|forests|7
lion|cub|meat|dry grassland|6
kangaroo|joey|grass and leaves|Australia|5
deer|fawn|leaves and grass|forests and fields|6
rabbit|bunny|grass and carrots|burrows|3
fox|kit|mice and berries|dens in the woods|4
owl|owlet|mice|trees and barns|3
eagle|eaglet|fish and small animals|high cliffs|4
swan|cygnet|water plants|lakes|4
elephant|calf|leaves and bark|grassland and forests|9
whale|calf|krill and fish|the ocean|10
seal|pup|fish|cold coasts|6
shark|pup|fish and seals|the sea|8
bee|larva|nectar|hives|1
butterfly|caterpillar|nectar|meadows and gardens|1
ant|larva|seeds and crumbs|nests under the ground|0
spider|spiderling|insects|webs|1
mouse|pup|seeds and cheese|small holes|2
squirrel|kit|nuts|trees|2
hedgehog|hoglet|worms and beetles|hedges and gardens|3
turtle|hatchling|plants and jellyfish|the sea and beaches|5
penguin|chick|fish|cold southern coasts|4
giraffe|calf|leaves from tall trees|dry grassland|8
zebra|foal|grass|dry grassland|7
camel|calf|dry plants|deserts|7
monkey|infant|fruit and leaves|warm forests|4
wolf|pup|deer and small animals|forests|5
bat|pup|insects and fruit|caves|2
panda|cub|bamboo|mountain forests in China|6
""")

# question | answer | wrong answer | another wrong answer | detail
FACTS = rows("""
What colour is the sky on a clear day?|blue|green|yellow|The air scatters blue light the most.
What colour is grass?|green|blue|purple|A pigment in the leaves makes it so.
What colour is snow?|white|black|brown|Its crystals send back all the light.
What colour is a ripe banana?|yellow|blue|red|It is green before it ripens.
What colour do you get from blue and yellow?|green|orange|pink|Painters mix it all the time.
What colour do you get from red and white?|pink|green|blue|More white makes it paler.
What colour do you get from red and yellow?|orange|purple|green|It is a warm colour.
How many legs does a spider have?|eight|six|ten|Insects have six.
How many legs does an insect have?|six|eight|four|Spiders have two more.
How many days are in a week?|seven|five|nine|Two of them are the weekend.
How many months are in a year?|twelve|ten|eleven|The last one is December.
How many hours are in a day?|24|20|30|Half of them are often dark.
How many minutes are in an hour?|60|50|100|Each one has 60 seconds.
How many seconds are in a minute?|60|30|100|A clock hand shows them.
How many sides does a triangle have?|three|four|six|The corners add up to 180 degrees.
How many sides does a square have?|four|five|three|They all have the same length.
How many sides does a hexagon have?|six|five|seven|Bees build their cells this way.
How many planets go around the sun?|eight|seven|twelve|Pluto is now called a dwarf planet.
How many continents are there?|seven|five|nine|Asia is the largest one.
How many strings does a violin have?|four|six|ten|A guitar has two more.
How many strings does a guitar usually have?|six|four|nine|A violin has two fewer.
How many letters are in the English alphabet?|26|24|30|Five of them are vowels.
How many wheels does a bicycle have?|two|three|five|A tricycle has one more.
How many fingers are on one hand?|five|six|four|One of them is the thumb.
How many cards are in a standard deck?|52|40|60|There are four suits.
What is the largest planet?|Jupiter|Mars|Venus|It is a giant ball of gas.
What is the closest planet to the sun?|Mercury|Saturn|Neptune|A year there is very short.
Which planet is called the red planet?|Mars|Venus|Uranus|Rust in its soil gives the colour.
Which planet has the famous rings?|Saturn|Mars|Mercury|The rings are ice and rock.
What is the largest ocean?|the Pacific|the Atlantic|the Arctic|It covers about a third of the Earth.
What is the largest animal?|the blue whale|the elephant|the giraffe|It lives in the ocean.
What is the tallest animal?|the giraffe|the horse|the camel|Its neck is very long.
What is the fastest land animal?|the cheetah|the tortoise|the cow|It runs fast for a short time.
What is the highest mountain?|Mount Everest|Mount Fuji|Mont Blanc|It stands in the Himalayas.
What is the hottest season?|summer|winter|autumn|The days are long then.
What is the coldest season?|winter|summer|spring|The nights are long then.
What do bees make?|honey|milk|silk|They make it from nectar.
What do cows give us to drink?|milk|honey|juice|Cheese is made from it.
What do plants need to grow?|light and water|stones and sand|salt and smoke|Air and soil help too.
What is ice made of?|water|glass|sugar|It forms below zero degrees.
What is bread made from?|flour|sand|cheese|Water and yeast go in too.
What is cheese made from?|milk|flour|corn|It can ripen for months.
What is paper made from?|wood|stone|iron|The wood is turned into pulp.
What is glass made from?|sand|wood|wool|It is melted at great heat.
What is wine made from?|grapes|apples|carrots|The juice ferments for weeks.
What is chocolate made from?|cocoa beans|peanuts|potatoes|Sugar and milk are added.
At how many degrees Celsius does water boil?|100|50|200|That is at sea level.
At how many degrees Celsius does water freeze?|0|10|32|Salt water needs more cold.
Where does the sun rise?|in the east|in the west|in the north|It sets on the other side.
Where does the sun set?|in the west|in the east|in the south|It rises on the other side.
What gas do we breathe to live?|oxygen|helium|neon|Plants give it off.
What pulls things to the ground?|gravity|magnets|the wind|The moon has less of it.
What causes the tides?|the moon|the wind|the clouds|It pulls on the sea.
What do we call frozen rain in soft flakes?|snow|fog|steam|No two flakes look alike.
What do we see after rain when the sun shines?|a rainbow|a volcano|a comet|Drops split the light.
What organ pumps blood?|the heart|the liver|the stomach|It beats all day long.
What organ do we think with?|the brain|the lung|the kidney|It uses a lot of energy.
What tool tells the time?|a clock|a hammer|a spoon|It has two or three hands.
What tool shows the north?|a compass|a ladder|a fork|Its needle is a small magnet.
What instrument has black and white keys?|the piano|the drum|the flute|It has 88 of them.
Who flies a plane?|a pilot|a baker|a tailor|There are often two of them.
Who bakes bread?|a baker|a dentist|a sailor|The work starts very early.
Who puts out fires?|a firefighter|a painter|a gardener|The truck is often red.
Who looks after teeth?|a dentist|a farmer|a judge|A visit twice a year is wise.
Who teaches in a school?|a teacher|a pilot|a plumber|The class listens and asks.
""")

SEQUENCES = {
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "month": (
        "January", "February", "March", "April", "May", "June", "July", "August",
        "September", "October", "November", "December",
    ),
}  # fmt: skip

# word | meaning | wrong meaning | example sentence
WORDS = rows("""
brave|not afraid to do hard things|very sleepy|The brave girl climbed the tower.
tiny|very small|very loud|A tiny bird sat on the roof.
huge|very big|very quiet|A huge ship came into the port.
ancient|very old|made of sugar|They found an ancient coin.
rapid|very fast|full of holes|The river is rapid in spring.
calm|quiet and not upset|covered in paint|The sea was calm at night.
generous|happy to share with others|hard to open|A generous friend paid for lunch.
curious|wanting to know more|afraid of water|The curious cat opened the box.
fragile|easy to break|good to eat|The glass is fragile.
honest|telling the truth|very tall|An honest man gave the money back.
humble|not proud|full of salt|The humble winner thanked the team.
lazy|not wanting to work|bright red|The lazy dog slept all day.
gloomy|dark and a bit sad|fast as the wind|It was a gloomy afternoon.
eager|wanting something very much|made of stone|The class was eager to start.
clumsy|likely to drop or bump things|rich and famous|My clumsy uncle broke a cup.
polite|showing good manners|sharp like a knife|A polite boy held the door.
stubborn|not ready to change your mind|soft and warm|The stubborn mule would not move.
weary|very tired|very clean|The weary walker sat down.
wise|knowing what is right and good|made for children|A wise woman gave advice.
shallow|not deep|not true|The pond is shallow here.
vacant|empty|angry|The house next door is vacant.
annual|happening once a year|happening at night|The annual fair is in June.
mend|to repair something|to lose something|She will mend the torn coat.
wander|to walk without a plan|to sing loudly|We wander through the old town.
whisper|to speak very softly|to run away|They whisper in the library.
gather|to bring things together|to throw things out|Birds gather in the tree.
borrow|to take something and give it back later|to cook in oil|May I borrow your pen.
admire|to think highly of someone|to forget someone|I admire my teacher.
vanish|to disappear|to grow quickly|The fog will vanish by noon.
assist|to help|to hide|He will assist the nurse.
orchard|a place where fruit trees grow|a kind of boat|The orchard is full of apples.
harbour|a safe place for ships|a warm hat|Boats rest in the harbour.
feast|a large festive meal|a small lie|The feast lasted all night.
journey|a long trip|a short rope|The journey took three days.
tool|something that helps you do a job|a kind of weather|A hammer is a useful tool.
meadow|a field of grass and flowers|a metal spoon|Bees love the meadow.
neighbour|someone who lives near you|someone who sells shoes|My neighbour grows roses.
rumour|a story that may not be true|a fast train|The rumour spread quickly.
shelter|a place that keeps you safe|a sweet drink|They found shelter from the rain.
treasure|a store of valuable things|a noisy bird|The treasure was under the tree.
habit|something you do often|a kind of cheese|Reading is a good habit.
hint|a small clue|a large hill|Give me a hint.
patience|being able to wait calmly|a hot soup|Fishing takes patience.
courage|the strength to face fear|the colour of sand|It took courage to speak.
""")

OPPOSITES = rows("""
hot|cold
big|small
fast|slow
happy|sad
early|late
full|empty
hard|soft
high|low
bright|dark
loud|quiet
fresh|stale
open|closed
rich|poor
rough|smooth
short|long
strong|weak
sweet|sour
thick|thin
wet|dry
wide|narrow
young|old
above|below
always|never
buy|sell
push|pull
win|lose
day|night
first|last
heavy|light
clean|dirty
near|far
inside|outside
true|false
up|down
left|right
begin|end
""")

NAMES = (
    "Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jonas",
    "Kate", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tara", "Victor",
)  # fmt: skip
# place | thing bought or done there
ERRANDS = rows("""
market|apples
market|fresh fish
bakery|a loaf of bread
bakery|a cake
library|a book about stars
library|an old map
garden shop|a rose bush
garden shop|some seeds
toy shop|a kite
toy shop|a wooden train
music shop|a flute
music shop|a small drum
book shop|a cook book
flower stall|tulips
shoe shop|red boots
harbour|a small boat
farm|eggs
farm|a jar of honey
""")
TROUBLES = rows("""
It rained all day.
The bus was late.
The street was full of people.
It was very cold outside.
The bag was heavy.
The sun was shining.
The shop was almost empty.
A dog followed along.
""")
ENDINGS = rows("""
came home tired but happy
gave it to a friend
came home in time for dinner
showed it to the whole family
walked home along the river
told everyone about it
""")
