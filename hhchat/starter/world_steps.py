"""Things to do: how-to steps, recipes, Python one-liners, advice and ideas."""

# ruff: noqa: E501 (one row a line reads better)

from __future__ import annotations

from hhchat.starter.world import rows

# task | step | step | step | step
HOWTO = rows("""
tie a shoe|cross the two laces|pull one lace under the other|make a loop with each lace|pull the loops tight
plant a tree|dig a wide hole|set the roots in the hole|fill it with soil|water it well
wash a car|rinse off the dust|rub it with soapy water|rinse the soap away|dry it with a cloth
clean a window|spray it with water and vinegar|wipe it from top to bottom|dry it with a newspaper
fix a flat bicycle tyre|take off the wheel|find the hole in the tube|glue a patch on it|pump it up again
make a bed|shake out the pillow|pull the sheet flat|spread the blanket on top
fold a shirt|lay it face down|fold in both sleeves|fold it in half
iron a shirt|warm up the iron|start with the collar|press the sleeves|hang it up
learn a new language|learn ten words a day|listen to songs in it|speak with someone each week|read easy books
sleep better|go to bed at the same time|keep the room dark|put your phone away|avoid coffee late in the day
save money|write down what you spend|set a small goal|cook at home|put some aside each month
study for a test|make a simple plan|read your notes aloud|test yourself|rest the night before
pack a suitcase|make a list first|roll your clothes|put shoes at the bottom|keep your papers on top
write a letter|greet the reader|say why you write|tell your news|sign your name
remove a wine stain|dab it with a cloth|put salt on it|rinse it with cold water
sharpen a pencil|put the tip in the sharpener|turn it gently|empty the shavings
change a light bulb|switch off the power|let the old bulb cool|screw in the new bulb
grow tomatoes|start seeds in a warm place|move the plants to the sun|tie them to a stick|water them often
feed a bird in winter|hang up a feeder|fill it with seeds|keep it clean
train a dog to sit|hold a treat above its nose|say sit in a clear voice|give the treat at once|repeat it every day
calm a crying baby|hold the baby close|check if it is hungry|hum a soft song
start running|run and walk in turns|keep an easy pace|rest every second day|wear good shoes
tidy a room|pick up the clothes|sort things into boxes|dust the shelves|sweep the floor
wrap a gift|cut enough paper|fold it around the box|tape the edges|tie a ribbon
build a snowman|roll a big ball of snow|put a smaller ball on top|add a carrot nose
make a paper plane|fold the paper in half|fold the corners in|fold down the wings|throw it gently
wash your hands|wet them with water|rub them with soap|count to twenty|rinse and dry them
brush your teeth|put paste on the brush|brush each side gently|spit and rinse
take a good photo|find soft light|hold the camera still|keep the background simple
get rid of hiccups|hold your breath a while|sip cold water|breathe slowly
paint a wall|cover the floor|tape the edges first|roll on thin coats|let it dry
care for a house plant|give it bright light|water it when the soil is dry|wipe dust off the leaves
make new friends|join a local club|ask people about themselves|invite someone for a walk
find a lost key|think where you used it last|check your pockets|look under the sofa
""")

# dish | step | step | step | step
COOKING = rows("""
tea|boil some water|put a tea bag in a cup|pour the water over it|wait three minutes
coffee|grind the beans|boil some water|pour it over the coffee slowly
boiled eggs|boil water in a pot|lower the eggs in|wait eight minutes|cool them in cold water
scrambled eggs|beat two eggs with salt|melt butter in a pan|stir them over low heat
an omelette|beat three eggs|pour them into a hot pan|add cheese|fold it over
pancakes|mix flour, milk and eggs|heat butter in a pan|fry thin rounds|flip them once
rice|rinse the rice|add two cups of water to one cup|cook it for fifteen minutes|let it rest
pasta|boil plenty of water|add salt and pasta|cook it for ten minutes|drain it
tomato soup|fry an onion|add chopped tomatoes|simmer for twenty minutes|blend it smooth
vegetable soup|chop carrots and potatoes|cover them with water|simmer until soft|add salt and herbs
bread|mix flour, water, salt and yeast|knead the dough|let it rise an hour|bake it until brown
pizza|roll out the dough|spread tomato sauce|add cheese|bake it in a hot oven
a salad|wash the leaves|cut some cucumber|add oil and lemon
fruit salad|cut apples and pears|add grapes|squeeze an orange over it
mashed potatoes|boil peeled potatoes|drain them|mash them with butter and milk
fried rice|heat oil in a pan|fry garlic and vegetables|add cold rice|stir in soy sauce
a cheese sandwich|butter two slices of bread|put cheese between them|toast it in a pan
porridge|heat oats with milk|stir for five minutes|top it with honey
apple pie|slice six apples|put them in a crust|add sugar and cinnamon|bake it for forty minutes
cookies|cream butter and sugar|add flour and an egg|shape small balls|bake them for ten minutes
chocolate cake|mix flour, sugar and cocoa|add eggs and oil|bake it for half an hour
lemonade|squeeze four lemons|add sugar|fill up with cold water
hot chocolate|warm some milk|stir in cocoa and sugar|serve it in a big cup
a smoothie|put a banana in a blender|add berries and milk|blend it for a minute
popcorn|heat oil in a pot|add the corn|cover it with a lid|shake it until it stops popping
roast carrots|cut the carrots|toss them in oil and salt|roast them for thirty minutes
""")

# Steps that are plainly wrong anywhere; a reply with one of them is not correct.
SILLY = (
    "paint it blue", "wait for a full moon", "throw it all away", "put it in the freezer overnight",
    "add a handful of sand", "close your eyes and spin", "bury it in the garden",
    "ask a fish for help", "pour glue over it", "do it upside down",
)  # fmt: skip

# task | code | what it gives | wrong code
PYTHON = rows("""
reverse a list|xs[::-1]|a new list in reverse order|xs.back()
sum a list|sum(xs)|the total of the numbers|xs.total()
find the largest number in a list|max(xs)|the largest value|xs.biggest()
find the smallest number in a list|min(xs)|the smallest value|xs.least()
sort a list|sorted(xs)|a new sorted list|order(xs)
count the items in a list|len(xs)|the number of items|xs.count()
remove doubles from a list|list(set(xs))|a list without repeats|xs.unique()
make a string upper case|s.upper()|the text in capitals|upper(s)
make a string lower case|s.lower()|the text in small letters|lower(s)
split a string into words|s.split()|a list of words|words(s)
join words with a space|" ".join(words)|one string|words.join()
strip spaces from a string|s.strip()|the text without outer spaces|s.cut()
reverse a string|s[::-1]|the text backwards|s.reverse()
print hello|print("hello")|hello on the screen|echo hello
square every number in a list|[x * x for x in xs]|a list of squares|xs ** 2
keep the even numbers of a list|[x for x in xs if x % 2 == 0]|only the even ones|xs.even()
get the last item of a list|xs[-1]|the last item|xs.last()
get the first item of a list|xs[0]|the first item|xs[1]
add an item to a list|xs.append(x)|the same list with one more item|xs + x
make a list of ten numbers|list(range(10))|the numbers from 0 to 9|range[10]
read a file|open(path).read()|the text of the file|file.get(path)
turn a string into a number|int(s)|a whole number|number(s)
turn a number into a string|str(n)|the digits as text|n.text()
check if a word is in a string|word in s|True or False|s.has(word)
swap two variables|a, b = b, a|both values swapped|swap(a, b)
get the keys of a dict|list(d)|a list of keys|d.names()
count a letter in a string|s.count("a")|how often it occurs|count(s, a)
round a number|round(x)|the nearest whole number|x.near()
replace a word in a string|s.replace("old", "new")|the changed text|s.swap("old")
find the average of a list|sum(xs) / len(xs)|the mean value|xs.middle()
""")

# feeling, as said by the user | short feeling | advice | advice | advice
FEELINGS = rows("""
I feel sad today|sad|take a short walk outside|call a friend|listen to music you love
I am very tired|tired|go to bed early tonight|drink some water|take a short break
I am nervous about my exam|nervous|breathe slowly for a minute|go over your notes once more|sleep well tonight
I feel lonely|lonely|write to someone you miss|join a club near you|go where people meet
I had a fight with my friend|upset|wait until you both are calm|say how you feel|listen to your friend
I am angry at my brother|angry|count to ten first|tell him what hurt you|go for a walk
I am bored|bored|read a new book|draw something silly|tidy a drawer
I am stressed at work|stressed|do one task at a time|take real breaks|talk with your boss
I cannot sleep|restless|put your phone away|keep the room cool|breathe slowly in bed
I am scared of the dark|scared|keep a small lamp on|listen to a calm story|tell someone about it
I lost my job|worried|rest for a day|write down what you do well|ask friends for leads
I failed my test|disappointed|look at what went wrong|ask the teacher for help|make a plan for next time
I miss my family|homesick|call them tonight|look at old photos|plan a visit
I feel shy at parties|shy|talk to one person first|ask simple questions|stay a short while
I am proud of my work|proud|share it with a friend|write down how you did it|enjoy the moment
I am happy today|happy|share it with someone|write it down|do something kind
I am jealous of my sister|jealous|think of what you do well|talk with her openly|set your own goal
I feel sick|unwell|rest in bed|drink warm tea|see a doctor if it lasts
I broke my favourite cup|annoyed|sweep up the pieces with care|try to glue it|choose a new one you like
I am worried about money|worried|list what you spend|set a small budget|ask someone you trust
My dog died|sad|give yourself time|look at happy photos|talk about your dog
I have too much to do|overwhelmed|write it all down|pick one thing|drop what does not matter
I moved to a new town|unsure|explore one street a day|greet your neighbours|find a place you like
I cannot focus|distracted|turn off your phone|work for twenty minutes|clear your desk
""")

# request | idea | idea | idea | idea
IDEAS = rows("""
a name for my dog|Biscuit|Shadow|Maple|Pepper
a name for my cat|Pumpkin|Luna|Whiskers|Smoky
a gift for my mother|a bunch of flowers|a photo book|a warm scarf|a nice tea
a gift for my friend|a good book|a board game|homemade cookies|a plant
something to do on a rainy day|bake cookies|play a board game|read by the window|build a blanket fort
something to do on Sunday|have a slow breakfast|visit a museum|walk in a park|call your family
a game for two people|chess|a card game|table tennis|twenty questions
a healthy snack|an apple|a handful of nuts|carrot sticks|plain yogurt
a quick dinner|pasta with garlic|an omelette|tomato soup|fried rice
a hobby for the evening|knitting|drawing|playing the guitar|writing a diary
a theme for a party|the ocean|outer space|the jungle|the old days
a way to relax|a warm bath|slow breathing|a walk in the woods|soft music
a book to start with|a short mystery|a book of fairy tales|a travel story|a book about birds
a sport to try|swimming|tennis|climbing|dancing
an idea for breakfast|porridge with honey|toast and eggs|fruit salad|yogurt with nuts
""")
