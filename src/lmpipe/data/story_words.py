"""The words of the story grammar: lists (commas between entries) and tables (semicolons between columns).

Entries may use the template language of `lmpipe.data.stories`. Common entries stand first: they are drawn more
often. The
first line of a table names its columns; `thing.use` is the column `use` of the row that was drawn for `thing`.
"""

LISTS: dict[str, str] = {
    # People and their names; none ends in s, so that 's always makes the possessive.
    "boy": """
        Tim, Ben, Tom, Max, Sam, Leo, Jack, Finn, Noah, Oliver, Henry, Jacob, Ethan, Theo, Adam, Milo, Daniel,
        Oscar, Peter, Hugo, Eli, Owen, Felix, Arthur, Ryan, Toby, Nathan, Simon, Mateo, Caleb, Diego, Omar, Rory,
        Jasper, Ravi, Kenji, Anton, Emil, Ivan, Malik, Otto, Pablo, Quentin, Rafael, Sven, Tariq, Victor, Wesley,
        Xavier, Yusuf, Zane, Bruno, Cedric, Dylan, Edgar, Frank, George, Harry, Ian, Joel, Kofi, Luca, Marco,
        Nico, Paul, Robin, Stefan, Walter""",
    "girl": """
        Lily, Mia, Sue, Anna, Emma, Lucy, Ella, Sara, Amy, Molly, Zoe, Grace, Chloe, Ruby, Nora, Ivy, Alice,
        Clara, Maya, Hannah, Rosie, Jane, Leah, Sophie, Julia, Stella, Violet, Daisy, Eva, Freya, Gina, Hazel,
        Ida, Jasmine, Kira, Lena, Maria, Nina, Olive, Penny, Quinn, Rachel, Selma, Tara, Uma, Vera, Wendy, Yara,
        Zara, Amina, Bella, Carmen, Dora, Elena, Fatima, Greta, Heidi, Ingrid, Josie, Keiko, Luna, Mabel, Naomi,
        Ophelia, Polly, Rosa, Sonja, Tilda""",
    "nickname": """
        Pip, Bobo, Coco, Benny, Momo, Fluffy, Poppy, Teddy, Nibble, Hazelnut, Button, Pepper, Biscuit, Clover,
        Dusty, Fern, Ginger, Honey, Jumper, Kiki, Lolly, Maple, Nutmeg, Olly, Pebble, Rusty, Sunny, Tango, Waffle,
        Ziggy, Acorn, Bramble, Cricket, Dot, Ember, Freckle, Hopper, Inky, Juniper, Koko, Lumpy, Muffin, Noodle,
        Peanut, Pumpkin, Quill, Rosebud, Scooter, Tumble, Velvet, Whistle, Yoyo, Zippy""",
    "aunt": "Rose, May, Ellen, Betty, Flora, Gloria, Irene, Joan, Laura, Martha, Opal, Ruth, Sylvia, Wilma",
    "uncle": "Bob, Joe, Fred, Bill, Carl, Ernie, Gabriel, Herbert, Karl, Leon, Norman, Ralph, Stan, Ted",
    "surname": """
        Green, Brown, Hill, Wood, White, Baker, Cook, Miller, Bell, Stone, Rivera, Singh, Kim, Larkin, Morgan,
        Nolan, Parker, Reed, Silva, Taylor, Vogel, Winter, Young, Berry, Carter, Dunn, Fisher, Grant, Hart, Lopez,
        Moon""",
    "trait": """
        kind, brave, curious, happy, clever, shy, funny, gentle, cheerful, quiet, busy, polite, friendly, playful,
        careful, dreamy, lively, patient, thoughtful, helpful, proud, stubborn, messy, restless, daring, honest,
        eager, bold, merry, bright, generous, sleepy, noisy, serious, adventurous, imaginative, impatient,
        forgetful""",
    "job": """
        baker, farmer, gardener, librarian, painter, doctor, teacher, shopkeeper, carpenter, mail carrier,
        musician, sailor, cook, firefighter, bus driver, shoemaker, zookeeper, beekeeper, tailor, potter,
        clockmaker, lighthouse keeper, train conductor, florist, street sweeper, puppet maker, ranger""",
    "wise": """
        owl, goose, goat, tortoise, toad, raven, moose, heron, donkey, crane, walrus, bison, stork, ram, pelican""",
    "kindly": """
        kind, friendly, old, gentle, nice, jolly, smiling, cheerful, wise, helpful, warm-hearted, white-haired,
        tall""",
    "pretend": """
        pirate, knight, captain, king of the hill, wizard, explorer, lion tamer, astronaut, detective, dragon,
        train driver, deep-sea diver, famous chef, superhero, cowhand, inventor, spy, giant, mountain climber,
        pilot""",
    # Things, colors, materials.
    "color": """
        red, blue, green, yellow, pink, purple, orange, white, brown, black, gray, golden, silver, striped,
        spotted, turquoise, sky-blue, lemon-yellow, rainbow-colored, violet, scarlet, crimson, mint-green, copper,
        navy-blue, checkered""",
    "fur": """
        brown, white, black, gray, fluffy, spotted, golden, orange, striped, tiny, shaggy, fat, sleepy, one-eared,
        long-tailed""",
    "wear": """
        hat, scarf, cap, coat, sweater, cape, jacket, raincoat, vest, apron, beret, crown made of paper, woolly
        hat, straw hat, backpack, pair of boots, pair of mittens, bow tie, ribbon, bracelet, belt, helmet""",
    "cloth": "scarf, coat, sweater, jacket, cape, shawl, blanket, towel, raincoat, handkerchief, poncho, vest, apron",
    "treasure": """
        shiny stone, smooth pebble, pretty shell, golden button, acorn, old coin, blue feather, tiny key, marble,
        glass bead, pine cone, dried flower, silver bell, piece of string, wooden whistle, four-leaf clover, lucky
        penny, brass ring, snail shell, toy soldier, chestnut, magnet, seahorse made of glass, broken watch, bent
        spoon, cork""",
    "bag": "bag, basket, backpack, lunch box, bundle, satchel, pouch, bucket, tin, sack",
    "treat": """
        cookies, pancakes, strawberry jam, apple pie, muffins, ice cream, chocolate cake, cherry pie, honey bread,
        soup, cupcakes, popcorn, warm waffles, banana bread, lemon cake, cinnamon rolls, gingerbread, blueberry
        tarts, pudding, hot cocoa, dumplings, noodles, roasted chestnuts, peach jelly, pumpkin pie, rice balls,
        toffee, corn bread, doughnuts, tomato soup, raisin buns, caramel apples, vanilla custard, grilled cheese,
        potato pancakes, carrot cake, plum cake""",
    "fruit": """
        apples, pears, grapes, cherries, berries, plums, peaches, strawberries, nuts, carrots, raspberries,
        bananas, oranges, figs, melons, blackberries, apricots, crackers, dates, walnuts, sunflower seeds,
        radishes, mangoes, peas""",
    "tasty": """
        tasty, delicious, yummy, sweet, warm, crunchy, fresh, juicy, soft, sticky, crispy, creamy, fluffy,
        buttery, spicy, crumbly, tangy, golden-brown""",
    "tool": """
        hammer, rope, ladder, shovel, lantern, broom, bucket, blanket, net, spoon, stick, wheelbarrow, pair of
        scissors, rake""",
    "digger": "spade, shovel, spoon, trowel, stick, rake, fork, hoe, pickaxe",
    "instrument": """
        drum, flute, piano, violin, trumpet, guitar, harp, xylophone, tambourine, banjo, harmonica, cello,
        triangle""",
    # The world around.
    "critters": """
        birds, ducks, butterflies, bees, squirrels, ants, rabbits, frogs, cats, snails, ladybugs, mice, pigeons,
        beetles, dragonflies, fish, geese, sheep, crows, turtles, lizards, caterpillars, swans, fireflies, robins,
        grasshoppers, worms, chickens, sparrows, goats, crickets, puppies, hedgehogs, moths, swallows, piglets,
        tadpoles, ponies""",
    "animal": """
        cat, dog, rabbit, duck, mouse, frog, bear, fox, pig, horse, whale, monkey, owl, elephant, tiger, sheep,
        crab, goat, hen, camel, penguin, snail, dolphin, parrot, hippo, giraffe, kangaroo, zebra, octopus,
        unicorn, lobster, panda""",
    "doing": """
        playing, sleeping, eating, resting, singing, running around, hopping, hiding, chasing each other,
        drinking, marching in a line, sitting, dancing, looking for food, splashing, warming themselves, talking,
        building something, yawning, tumbling about, waiting, quarreling, napping, digging, having a party""",
    "nearby": """
        in the grass, under a tree, by the road, on a fence, near the water, on a wall, in the sun, behind a bush,
        on a log, beside a puddle, in the mud, under a leaf, among the flowers, on a rock, at the corner, next to
        a gate, below the bridge, on the roof, beside the path, along the ditch, between two stones, on a stump,
        in the shade""",
    "flower": """
        roses, daisies, tulips, violets, lilies, poppies, buttercups, dandelions, bluebells, marigolds, lavender,
        orchids""",
    "tree": "oak, apple, pine, willow, maple, cherry, birch, chestnut, fig, elm, pear, linden, beech, cedar, walnut",
    "smell": """
        fresh bread, flowers, wet grass, rain, warm earth, cut hay, pine needles, honey, the sea, ripe apples,
        smoke, soap, cinnamon, mushrooms, oranges, mint, roasted nuts, old books, wood shavings, fried onions""",
    "weekday": "Sunday, Monday, Tuesday, Wednesday, Thursday, Friday, Saturday",
    "number": "three, five, seven, two, ten, four, twelve, six, nine, eight, eleven, twenty",
    "hobby": """
        climb trees, paint pictures, sing songs, read books, ride a bike, build towers, look at the stars, collect
        stones, play hide and seek, tell jokes, dance in the kitchen, dig holes, jump over puddles, draw animals,
        make up stories, watch the clouds, catch bugs, bake with Grandma, play ball, do puzzles, ask questions,
        run races, whistle, feed the birds, splash in the water, listen to music, make mud pies, roll down hills,
        fold paper boats, study maps, press flowers, count ants, skip rope, swim, play cards, race snails, water
        the flowers, invent games, wear costumes""",
    "town": """
        village, town, city, valley, harbor town, mountain village, kingdom, mining town, fishing village,
        farm town, market town""",
    "game": """
        hide and seek, tag, catch, marbles, pirates, follow the leader, hopscotch, leapfrog, treasure hunt,
        dominoes, checkers, jump rope, tug of war, statues, cards, house, store, I spy""",
    # Feelings and manners.
    "happy": """
        happy, glad, proud, very happy, so happy, full of joy, cheerful, delighted, excited, pleased, thrilled,
        merry, grateful, as happy as a lark, warm inside, overjoyed""",
    "sad": """
        sad, very sad, upset, unhappy, gloomy, lonely, miserable, disappointed, heartbroken, close to tears,
        downcast, so sad, as sad as a rainy day""",
    "scared": "scared, afraid, frightened, nervous, worried, very scared, terrified, timid, shaky, uneasy, anxious",
    "angry": "angry, mad, cross, grumpy, annoyed, very angry, furious, grouchy, jealous, red in the face, sulky",
    "surprised": "surprised, amazed, astonished, puzzled, very surprised, startled, speechless, stunned, curious",
    "tired": "tired, sleepy, worn out, exhausted, hungry and tired, very tired, drowsy, weary",
    "quickly": """
        quickly, slowly, carefully, happily, quietly, bravely, eagerly, gently, proudly, gladly, at once, right
        away, without a word, with a smile, with great care, in a hurry, calmly, politely, patiently, cheerfully,
        nervously""",
    "softly": """
        softly, quietly, kindly, gently, with a smile, with a wink, calmly, warmly, after a moment, slowly,
        sweetly, with a nod, patiently, in a low voice, tenderly""",
    "cried": "cried, shouted, called, yelled, exclaimed, shrieked, gasped, squealed, yelped",
    "said": "said, whispered, murmured, announced, mumbled, declared, sighed, muttered",
    "oh_no": "oh no, oh dear, help, goodness, dear me, uh-oh, oops, heavens, alas",
    "hooray": "hooray, yay, wow, hurrah, yippee, look, oh my, at last, wonderful, yes, fantastic",
    "great": """
        great, wonderful, lovely, beautiful, nice, perfect, amazing, splendid, good, marvelous, special, fine,
        fantastic, magnificent, super""",
    "big": "big, small, tiny, huge, little, tall, enormous, round, tidy, narrow, crooked, cozy, wide",
    "old": "old, wooden, rusty, dusty, broken, mossy, hollow, crooked, painted, stone, forgotten, creaky, leafy",
    "again": """
        was no luckier, had to laugh at {himself}, hurt {his} elbow, nearly made it, ended up in a bush,
        frightened {a_few} {critters}, closed {his} eyes and missed, got a bump on {his} head, landed on {his}
        {wear}""",
    "ordinal": "second, third, fourth, fifth, sixth, tenth, last",
    "one_fine_day": """
        one fine day, on the {ordinal} day, on {weekday} morning, after {number} days, when nobody expected it,
        early in the morning, one sunny afternoon, at the end of the week, on the first day of {month}""",
    "month": "January, February, March, April, May, June, July, August, September, October, November, December",
    "size": "tiny, little, small, young, thin, baby, lost, shivering, wet, skinny",
    "sadly": "sadly, softly, weakly, in pain, for help, without stopping, in a low voice",
    "hurt": "hurt, bleeding, swollen, bent, sore, caught in a wire, full of thorns, stuck between two stones",
    "soft": """
        wool, straw, blankets, pillows, moss, feathers, old socks, towels, paper, leaves, cotton, cardboard,
        cushions, cloth, twigs, sheets, carpets, ribbons""",
    "opened": "opened, put down, unlocked, set down, emptied",
    "stirred": "stirred, mixed, beat, turned, kneaded, whisked",
    "lamp": "lamp, lantern, candle, flashlight, mirror, clock, armchair, bookshelf, cupboard, radio, teapot, piano",
    "indoors": """
        in the hall, under the table, on the stairs, in the kitchen, around the sofa, in the attic, on the rug""",
    "sun": "sunshine, heat, the morning light, warm winds, the summer heat",
    "rain": "rain, snow, wind, fog, storms, the cold, mud",
    "my_fault": "my fault, an accident, not your fault, because of me, my clumsy elbow",
    "material": "wood, tin, cloth, felt, iron, clay, wool, leather, paper, brass, velvet, glass",
    "played": "played, invented, practiced, loved, were masters of, never got tired of",
    "away": "in the garden, asleep, out shopping, on the phone, in the bathtub, at work, next door, upstairs",
    "paper": "paper, sand, soap, nothing, dust, cardboard, sawdust, chalk, old socks",
    "hole": "hole, deep hole, small hole, furrow, little pit",
    "patience": "patience, care, time, courage, a little luck, hard work, a warm heart, hope, practice",
    "windows": "windows, doors, rooms, stairs, flags, chimneys, corners, secret drawers",
    "worked": """
        hammered, measured, sang, carried, counted, tied the knots, painted, sawed, pushed, gave orders, glued""",
    "some_night": """
        one night, late one night, one stormy night, one warm night, on the night before {weekday}, one dark night""",
    "warm_drink": "warm milk, hot cocoa, mint tea, hot lemonade, apple juice, warm almond milk",
    "outside": """
        there was a full moon., the snow lay deep., a star fell., it was raining., mist lay on the ground., the
        street was empty., everything was dark blue.""",
    "sleeping": """
        on one leg, upside down, with open eyes, standing up, in a heap, under water, rolled up like a ball, in
        the air, with a leaf for a blanket, belly up, in rows, under the ground, holding hands, sitting up""",
    "soft_toy": "teddy bear, rabbit, blanket, pillow, elephant, doll, sheep, monkey, bunny, whale",
    "purse": "purse, bag, box, glove, hat, wallet, suitcase, envelope, case, sock, jewel box, pencil case",
    "small": "small, big, old, new, heavy, round, thin, flat, fancy",
    "hugged": "hugged, kissed, squeezed, held, smiled at, cuddled",
    "pretenders": "pirates, sailors, explorers, divers, captains, smugglers, treasure hunters, fishermen",
    "the_seller": """
        the shopkeeper, the seller, the old clerk, the lady at the counter, the owner, a voice from the back""",
    "doing_one": "sitting, lying, whittling, reading, knitting, humming, leaning, daydreaming, whistling, drawing",
    "flaw": "shy, messy, noisy, forgetful, impatient, stubborn, bossy, lazy, timid, wild, clumsy, vain, greedy, slow",
    "hue": """
        brown, gray, white, black, golden, spotted, striped, speckled, pale, reddish, silver, snow-white, dappled,
        blue""",
    "light": "lantern, lamp, candle, flashlight, torch, night-light, oil lamp, glow stick",
    "weather_word": "storm, rain, gray day, thunder, cloud, winter, gale",
    "one_thing": """
        a smile, one question, {a_few} {critters}, a shared apple, a drawing, a silly joke, a little patience""",
    "floor": "first, second, third, fourth, fifth, top",
    "roofs": "roofs, fields, hills, gardens, chimneys, treetops, rooftops, valley",
    "move": """
        ran, walked, hurried, skipped, hopped, raced, marched, wandered, trotted, strolled, dashed, tiptoed,
        galloped, rushed, jogged, crept, scampered""",
}

TABLES: dict[str, str] = {
    "thing": """name; use; used; using
        ball; bounce it; bounced it; bouncing it
        kite; fly it; flew it; flying it
        toy car; push it; pushed it; pushing it
        doll; carry it around; carried it around; carrying it around
        teddy bear; hug it; hugged it; hugging it
        toy boat; sail it; sailed it; sailing it
        balloon; hold it; held it; holding it
        book; read it; read it; reading it
        drum; play it; played it; playing it
        scooter; ride it; rode it; riding it
        wagon; pull it; pulled it; pulling it
        whistle; blow it; blew it; blowing it
        umbrella; twirl it; twirled it; twirling it
        toy train; push it; pushed it; pushing it
        yo-yo; spin it; spun it; spinning it
        flashlight; shine it; shone it; shining it
        toy plane; throw it; threw it; throwing it
        puppet; talk to it; talked to it; talking to it
        paintbrush; paint with it; painted with it; painting with it
        jump rope; skip with it; skipped with it; skipping with it
        music box; listen to it; listened to it; listening to it
        spinning top; spin it; spun it; spinning it
        wand; wave it; waved it; waving it
        hoop; roll it; rolled it; rolling it
        butterfly net; swing it; swung it; swinging it
        magnifying glass; look through it; looked through it; looking through it
        frisbee; toss it; tossed it; tossing it
        tambourine; shake it; shook it; shaking it
        accordion; squeeze it; squeezed it; squeezing it
        marble; roll it; rolled it; rolling it
        pinwheel; blow on it; blew on it; blowing on it
        toy robot; wind it up; wound it up; winding it up
        rocking horse; rock on it; rocked on it; rocking on it
        telescope; look through it; looked through it; looking through it
        pillow; cuddle it; cuddled it; cuddling it""",
    "place": """name; in; spot; sight; do
        the park; in the park; [under a bench|behind the slide|beside the fountain|in the rose bushes]; [ducks on the
            pond|children on the swings|a lady with three dogs]; [ride the swings|feed the ducks|roll down the hill]
        the garden; in the garden; [among the cabbages|under the watering can|behind the shed|in the tall grass];
            [bees on the flowers|a ladder against the wall|rows of lettuce]; [pick beans|pull weeds|look for snails]
        the beach; on the beach; [behind a sand dune|under a striped towel|between two rocks|next to a crab hole];
            [gulls over the waves|a sandcastle|white sails far away]; [build a sandcastle|collect shells|jump over the
            waves]
        the forest; in the forest; [under a pile of leaves|inside a hollow log|beside a mushroom|behind a mossy rock];
            [tall trees|a spider's web|tracks in the mud]; [pick berries|climb a tree|listen to the birds]
        the farm; on the farm; [behind the barn|in the hay|next to the pig pen|under the tractor]; [cows at the
            fence|hens in the yard|a scarecrow]; [feed the hens|pet the goats|ride on the tractor]
        the zoo; at the zoo; [by the lion house|next to the monkey cage|under a stroller|beside the seal pool]; [a
            giraffe eating leaves|two sleepy lions|penguins in a row]; [watch the seals|see the lions|wave at the
            monkeys]
        the market; at the market; [under a fruit stand|between two baskets|behind a cart|on a pile of sacks]; [towers
            of oranges|a man selling fish|cheeses as big as wheels]; [buy pears|taste the cheese|look at the cakes]
        the lake; by the lake; [in the reeds|under the dock|inside a rowboat|behind a willow]; [fish jumping|a swan
            with her babies|boats with oars]; [throw stones into the water|go fishing|row a boat]
        the playground; on the playground; [under the seesaw|in the sandbox|behind the climbing frame|at the bottom of
            the slide]; [a long line at the slide|big kids on the bars|a jump rope game]; [go down the slide|dig in
            the sandbox|climb]
        the library; in the library; [on the top shelf|under a table|behind a row of books|between two atlases]; [a
            globe|a story hour|shelves up to the ceiling]; [read about dragons|look at maps|borrow a book]
        the school yard; in the school yard; [near the bike stand|behind the gym|under the stairs|on a windowsill];
            [kids trading stickers|a chalk drawing|a flag in the wind]; [play ball|draw with chalk|run races]
        the fair; at the fair; [under the carousel|behind the popcorn stand|beside the ticket booth|in a pile of
            straw]; [a Ferris wheel|a clown on stilts|a brass band]; [ride the carousel|see the clowns|win a prize]
        the river; by the river; [under the bridge|on the muddy bank|behind the water mill|in a patch of clover]; [a
            beaver dam|stepping stones|a barge full of coal]; [skip stones|look for frogs|paddle]
        the train station; at the train station; [on platform two|under a bench|behind a suitcase|next to the clock];
            [steam from an engine|travelers with trunks|a guard with a flag]; [wave at the trains|count the
            wagons|read the signs]
        the museum; in the museum; [behind a dinosaur|under a glass case|beside a suit of armor|in the coat room];
            [dinosaur bones|a mummy|paintings in gold frames]; [see the dinosaur|draw the statues|look at the old
            coins]
        the meadow; in the meadow; [among the poppies|next to a molehill|under a haystack|near the old gate]; [grazing
            sheep|a cloud of butterflies|a hare]; [pick flowers|chase butterflies|have a picnic]
        the harbor; in the harbor; [under a fishing net|behind a barrel|between two crates|on a coil of rope]; [a
            lighthouse|fishing boats|a ship with three masts]; [watch the ships|talk to the sailors|feed the gulls]
        the hill; on the hill; [behind a boulder|in a rabbit hole|under a blueberry bush|beside the windmill]; [the
            old windmill|a hawk in the sky|a herd of goats]; [roll down the slope|fly a kite|look far away]""",
    "creature": """name; home; food; part; called; moved
        bird; nest; seeds; wing; chirped; fluttered
        kitten; basket; milk; paw; meowed; purred
        puppy; kennel; a bone; leg; whimpered; wagged its tail
        duckling; pond; bread crumbs; foot; quacked; waddled
        rabbit; burrow; a carrot; ear; squeaked; hopped
        squirrel; tree; nuts; tail; chattered; jumped
        frog; lily pad; a fly; leg; croaked; leaped
        hedgehog; pile of leaves; berries; nose; snuffled; rolled up
        lamb; meadow; clover; leg; bleated; skipped
        turtle; stream; lettuce; shell; sighed; crawled
        mouse; hole; cheese; tail; squeaked; scurried
        butterfly; flower bed; nectar; wing; trembled; flapped
        owl; hollow tree; supper; wing; hooted; blinked
        fawn; thicket; leaves; knee; whined; trotted
        pony; stable; oats; hoof; neighed; galloped
        baby goat; barn; hay; horn; bleated; jumped
        fox cub; den; berries; paw; yelped; crept
        ladybug; bush; dew; wing; buzzed; crawled
        crab; rock pool; seaweed; claw; clicked; scuttled
        piglet; pen; turnips; ear; squealed; wriggled
        beetle; log; moss; leg; hummed; marched
        seal pup; cove; a fish; flipper; barked; slid
        penguin chick; iceberg; a sardine; flipper; peeped; waddled
        bat; cave; a plum; wing; clicked; swooped""",
    "pet": """name; did; end
        dog; [barked|wagged its tail|sniffed the air]; [lay down on {his} feet|chewed its bone]
        cat; [purred|licked its paw|arched its back]; [curled up on {his} bed|rubbed against {his} legs]
        parrot; [squawked "{hooray}!"|flapped its wings|tilted its head]; [tucked its head under its wing|copied every
            word]
        hamster; [peeked out of {his} pocket|wiggled its nose|stuffed its cheeks]; [ran in its wheel|fell asleep in
            its straw]
        puppy; [chased its tail|yapped|licked {his} face]; [snored by the fire|dreamed of bones]
        goose; [honked|stretched its neck|flapped its wings]; [settled down on its straw|gave one last honk]
        goat; [nibbled on {his} sleeve|bleated|shook its beard]; [went to sleep in the shed|ate the last crust]
        hen; [clucked|scratched the ground|pecked at a crumb]; [laid an egg to celebrate|went to roost]
        rabbit; [thumped its foot|twitched its ears|nibbled a leaf]; [ate a whole carrot|stretched out on the rug]""",
    "skill": """name; doing; done; trouble; tip
        ride a bike; riding a bike; rode {his} bike; [fell off|crashed into the hedge|wobbled and tipped over]; look
            [straight ahead|where you want to go]
        swim; swimming; swam across the pool; [swallowed water|sank like a stone|kicked too fast]; [move your arms
            like a frog|breathe out slowly]
        whistle; whistling; whistled a tune; [only blew air|spat by accident|got dizzy]; make your lips [round|small]
            like an O
        tie a bow; tying a bow; tied a perfect bow; [made a knot|tangled the laces|pulled too hard]; make two
            [loops|rabbit ears]
        skip rope; skipping rope; skipped twenty times; [stepped on the rope|got {his} feet tangled|jumped too late];
            jump [when you hear the rope|in time with a song]
        juggle; juggling; juggled three balls; [dropped every ball|hit {his} own nose|lost count]; [start with one
            ball|keep your eyes up]
        skate; skating; skated in a circle; [slipped on the ice|sat down hard|slid into a snowbank]; bend your knees
            and [glide|push gently]
        play the {instrument@skill}; playing the {instrument@skill}; played a whole song on the {instrument@skill};
            [made a terrible noise|hit the wrong notes|forgot the tune]; [start slowly|listen before you play]
        do a cartwheel; doing cartwheels; did a perfect cartwheel; [fell on {his} back|bent {his} knees|landed in the
            mud]; keep your legs [straight|long]
        paint a {animal}; painting; painted a wonderful picture; [spilled the water|mixed all the colors into
            brown|made a big blot]; [look closely first|begin with the biggest shape]
        read; reading; read a whole page; [mixed up the letters|got stuck on every word|skipped a line]; [say the
            sounds one by one|put your finger under the word]
        knit; knitting; knitted a long scarf; [dropped a stitch|tangled the wool|made a hole]; count [your
            stitches|out loud]
        climb the rope; climbing the rope; climbed to the very top; [slid back down|burned {his} palms|let go too
            soon]; hold the rope with your [feet|knees], too
        catch a ball; catching a ball; caught the ball ten times; [closed {his} eyes|let it slip|ducked]; watch the
            ball [all the way|until it touches you]
        row a boat; rowing; rowed all the way across; [went round in circles|lost an oar|splashed everybody]; pull
            both oars [together|at the same time]
        bake bread; baking bread; baked a golden loaf; [burned the crust|forgot the salt|used too much flour]; let the
            dough [rest|grow] for an hour
        dive; diving; dived without a splash; [landed on {his} belly|held {his} nose|stood at the edge for an hour];
            tuck in your [chin|head]
        tell the time; telling the time; read the clock all alone; [mixed up the hands|came an hour early|guessed
            wrong]; look at the [short|little] hand first""",
    "fear": """name; sign; truth; where
        the dark; something tapped on the window; a branch of the {tree} tree in the wind; in {his} room
        thunder; there was a loud boom above the roof; two clouds bumping into each other; at home
        the big dog next door; a deep growl came from behind the fence; a friendly dog with a sore tooth; outside
        the cellar; something rustled behind the jars; a mouse with a piece of cheese; on the cellar stairs
        the attic; something creaked above the ceiling; an old rocking chair by the open window; under the attic
            ladder
        shadows; a long shadow moved across the wall; a coat on the door; in the hall
        the deep water; something brushed against {his} leg; a piece of green seaweed; at the shore
        spiders; something small ran over {his} pillow; a tiny spider looking for its home; in bed
        the {old} bridge; the boards creaked under {his} feet; nothing but dry wood in the wind; by the stream
        the cave; a strange voice answered every word; only an echo; at the entrance of the cave
        the empty house; a white shape waved from the window; a curtain in the wind; at the garden gate
        the night train; a long howl came from far away; the whistle of a train bringing the mail; in {his} bed
        the big slide; {his} knees shook on every step of the ladder; a slide no higher than a door; on the ladder
        strangers; heavy steps came up the path; the mail carrier with a parcel; behind the door
        the dentist; a drill hummed behind the white door; a tiny brush that tickled; in the waiting room
        monsters; something breathed under the bed; the sleeping cat; under {his} blanket""",
    "plant": """name; seed; yield
        sunflower; a striped seed; a flower as big as a plate
        pumpkin; a flat white seed; a pumpkin as round as the moon
        bean plant; a speckled bean; long green beans
        tomato plant; a tiny yellow seed; ripe red tomatoes
        apple tree; a brown seed; three small apples
        strawberry plant; a seed like a dot; sweet strawberries
        tulip; a round bulb; a tulip with bright petals
        rose bush; a thorny little twig; roses that smelled like honey
        watermelon; a shiny black seed; a melon too heavy to lift
        carrot; a seed as fine as dust; a carrot as long as an arm
        corn plant; a golden kernel; ears of sweet corn
        oak tree; a smooth acorn; a crown of green leaves
        lemon tree; a slippery seed; one perfect lemon
        cucumber vine; a pointed seed; crisp cucumbers
        potato plant; an ugly old potato; a whole bucket of potatoes
        lavender bush; a gray speck; purple flowers full of bees""",
    "contest": """name; do; past; mishap; prize
        the sack race; hop; hopped; tripped over the sack; a ribbon
        the drawing contest; draw; drew; broke {friend.own} last crayon; a box of paints
        the kite contest; fly a kite; flew the kite; got {friend.own} string caught in a tree; a cup
        the singing contest; sing; sang; forgot the second verse; a silver bell
        the swimming race; swim; swam; got a cramp; a medal
        the pie contest; bake; baked; dropped the pie dish; a chef's hat
        the sandcastle contest; dig and build; dug and built; lost a tower to the waves; a golden shovel
        the spelling contest; spell; spelled; mixed up two letters; a dictionary
        the boat race; row; rowed; lost an oar; a captain's hat
        the dance contest; dance; danced; slipped on the floor; a pair of red shoes
        the snail race; cheer; cheered; let {friend.own} snail fall asleep; a crown of lettuce
        the jumping contest; jump; jumped; landed in the mud; a trophy
        the costume parade; march; marched; tore {friend.own} costume; a feathered mask
        the pumpkin contest; carve; carved; cracked {friend.own} pumpkin; a lantern""",
    # Grown-ups, friends and helpers: how they are introduced, called afterwards, and their gender.
    "adult": """first; called; gender
        {his} mom; Mom; she
        {his} dad; Dad; he
        {his} grandma; Grandma; she
        {his} grandpa; Grandpa; he
        {his} aunt {aunt@adult}; Aunt {aunt@adult}; she
        {his} uncle {uncle@adult}; Uncle {uncle@adult}; he
        {his} big sister {girl@adult}; {girl@adult}; she
        {his} big brother {boy@adult}; {boy@adult}; he
        {his} nana; Nana; she
        {his} stepdad {boy@adult2}; {boy@adult2}; he""",
    "mishap": """name; thing; mend
        played ball in the living room; the {color@vase} vase; glued it together piece by piece
        jumped on the sofa; the {color@vase} lamp; bought a new shade for it
        reached for the cookie jar; the {color@vase} jar; swept up the pieces and baked new cookies
        ran through the hall; the {color@vase} flower pot; planted the flower in a new pot
        painted at the kitchen table; the {color@vase} tablecloth; scrubbed the spots with soap
        swung a stick like a sword; the kitchen window; helped to put in new glass
        played with the scissors; the {color@vase} curtain; sewed a patch over the hole
        tried to carry everything at once; the {color@vase} teapot; paid for a new one with saved pennies
        rode a scooter in the yard; the garden gate; nailed the boards back on
        climbed on the shelf; the picture frame; made a new frame out of wood
        took the watch apart; {adult.whose} watch; carried it to the clockmaker""",
    "broken": """name; damage; fix; tool
        truck; lost a wheel; put the wheel back on; a tiny screw
        doll; lost an arm; sewed the arm back on; needle and thread
        boat; had a hole; covered the hole; a drop of wax
        train; would not roll; oiled every wheel; a little can of oil
        rocking horse; cracked down the middle; pressed the two halves together; strong glue
        kite; ripped in two; patched the tear; a strip of cloth
        drum; had a tear in its skin; stretched a new skin over it; a piece of leather
        puppet; had tangled strings; tied on new strings; some fishing line
        castle; fell to pieces; set every brick in its place; a pot of paste
        robot; stopped moving; changed the old battery; a small screwdriver
        wagon; lost its handle; carved a new handle; a pocket knife
        music box; made no sound; bent the spring back; a pair of pliers
        bear; had a rip in its belly; filled it with new wool; a ball of yarn
        clock; stood still; wound it up; an old key
        plane; broke its wing; tied the wing on; a rubber band""",
    "build": """name; from; fail
        treehouse; boards and nails; the floor was crooked
        fort; pillows and blankets; the roof fell in
        raft; logs and rope; it tipped over
        tower; wooden blocks; it leaned to one side and crashed
        snowman; three balls of snow; the head rolled off
        bridge; flat stones; the middle one sank
        birdhouse; an old box; the door was too small
        spaceship; cardboard and tape; the engine fell off
        dam; sticks and mud; the water ran around it
        swing; a plank and two ropes; the knot came loose
        tent; sheets and poles; the wind blew it over
        puppet theater; a crate and curtains; the stage was too low
        scarecrow; straw and old clothes; the crows sat on it
        wagon; a crate and four wheels; one wheel was square
        cave; chairs and carpets; nobody could get inside
        windmill; paper and pins; it would not turn""",
    "weather": """name; the; sign; hit; after
        rain; the rain; dark clouds covered the sky; fat drops fell on everything; a rainbow stood over the {roofs}
        snow; the snow; the air turned cold and still; white flakes covered the {roofs}; the whole world sparkled
        wind; the wind; the trees began to bend and whisper; hats and leaves flew past; the air was clear and calm
        fog; the fog; a gray mist crept over the fields; nobody could see farther than a few steps; the sun broke
            through
        hail; the hail; the sky turned green and gray; little balls of ice rattled on the {roofs}; the ice melted in
            the grass
        a storm; the storm; thunder rolled behind the hills; lightning flashed and the rain came down; the air smelled
            fresh and new
        a heat wave; the heat; the sun burned from morning to night; the flowers hung their heads; a cool breeze came
            up""",
    "journey": """name; by; see
        the sea; train; blue water up to the sky
        the mountains; bus; snow on the highest peak
        the big city; tram; houses as tall as clouds
        the island; ferry; a white lighthouse
        the castle; wagon; towers with flags
        the waterfall; mule; water falling like silver
        the other side of the valley; sled; a village full of lights
        the northern woods; canoe; trees older than anyone
        the desert; camel; sand like a golden sea
        the balloon festival; balloon; a hundred balloons in the air
        the old lighthouse; sailboat; the longest stairs in the world
        the hot springs; bike; steam between the rocks""",
    "obstacle": """name; way
        a river without a bridge; laid a {old} log across the water
        a hill too steep to climb; held hands and went up in zigzags
        a gate with a lock; found the key under a flower pot
        a fork in the road; looked at the sun and turned left
        a flock of angry geese; threw bread crumbs to the side
        a tree across the road; crawled under its branches
        a patch of deep mud; put down flat stones and stepped over
        a tunnel as dark as night; sang loudly until they saw the light
        a signpost without letters; asked a snail, who was never in a hurry
        a bull in the field; walked around it on tiptoe
        a torn map; put the pieces together like a puzzle
        a thick wall of thorns; found a gap near the ground""",
    "duty": """name; tempt; result
        water the flowers; a game of {game}; the flowers hung their heads
        feed the fish; a pile of new picture books; the fish swam to the glass with open mouths
        be home before dark; a parade with drums and flags; the lamps were lit and the street was empty
        watch the soup; a puppet show next door; black smoke came out of the pot
        close the gate; a chase after a butterfly; all the hens were in the road
        mail the letter; a new ice cream shop; the mailbox had been emptied
        bring back the book; a swim in the lake; the library was closed
        look after the baby goat; a nap in the hay; the baby goat was gone
        collect the eggs; a race down the hill; two eggs lay cracked on the floor
        hang up the wash; a dance in the square; the wash was wet and gray
        sweep the steps; a snowball fight; somebody had slipped on the leaves
        polish the boots; a new comic book; the boots were as dull as mud""",
    "messy": """name; trouble
        bedroom; the toys were all over the floor
        closet; the door would not shut anymore
        playroom; nobody could walk without stepping on a block
        desk; the papers slid down like snow
        toy chest; everything was tangled up
        shed; the rakes and pots fell over each other
        kitchen; the dishes stood in crooked towers
        tent; the blankets were full of crumbs""",
    "dish": """name; mix; wrong; rescue
        cake; flour, eggs, and sugar; the cake sank in the middle; filled the hole with berries
        bread; flour, yeast, and warm water; the dough stuck to everything; added a handful of flour
        cookies; butter, oats, and honey; the first cookies were black; scraped them and watched the next ones closely
        pancakes; milk, eggs, and flour; a pancake flew onto the lamp; caught the next one with a plate
        soup; carrots, peas, and beans; it tasted of nothing; put in a little salt and parsley
        apple pie; apples, cinnamon, and dough; salt had gone in instead of sugar; started over with the right jar
        pizza; tomatoes, cheese, and basil; the crust was soft like a sponge; put it back in the hot oven
        muffins; bananas, nuts, and cream; the batter ran over the rim; used smaller spoonfuls
        jam; plums, sugar, and lemon; it was as thin as water; let it cook a while longer
        pudding; rice, milk, and vanilla; it was full of lumps; beat it with a whisk
        dumplings; potatoes, flour, and butter; they fell apart in the pot; rolled them smaller and tighter
        gingerbread; honey, ginger, and cloves; the gingerbread man lost a leg; stuck it on with icing""",
    "wait": """name; over; grand
        the eggs to hatch; a crack ran through the first shell; little wet beaks came out
        the first snow; one flake landed on the windowsill; by evening everything was white
        the bread to rise; the dough pushed up the cloth; the whole house smelled warm
        the mail; a letter fell through the slot; there was a stamp with a {animal} on it
        the train; a thin line of smoke showed far away; the engine came in with a hiss
        the berries to ripen; the first one turned dark; the bush was full of them
        the paint to dry; it no longer stuck to the finger; the colors shone like glass
        the butterfly to come out; the cocoon began to shake; two bright wings unfolded
        the circus; a drum sounded at the end of the street; an elephant came around the corner
        the stars to come out; one light blinked over the hill; the sky was full of them
        the baby to wake up; a tiny yawn came from the cradle; two small arms reached out
        the rain to stop; the dripping grew slower; blue sky peeked through""",
    "sprite": """name; from
        fairy; a tulip
        elf; a teapot
        talking fish; the well
        tiny wizard; a walnut
        little star; the sky
        genie; a jam jar
        gnome; a mole hole
        snow spirit; a snowflake
        moon mouse; a moonbeam
        magic cricket; a matchbox
        dwarf; an old boot
        mermaid; the bathtub""",
    "wish": """name; bad; lesson
        to be as tall as a house; {his} head bumped into the clouds; small is just the right size
        to have ice cream at every meal; {his} belly hurt all day; too much of a good thing is no good at all
        to be invisible; nobody answered when {he} spoke; it is nice to be seen by those who love you
        that it were always night; {he} stumbled over everything; the sun is worth waking up for
        to fly like a bird; the wind carried {him} away from home; two feet on the ground are a good thing
        to turn everything to gold; even the soup was hard and cold; gold can not keep you warm
        never to sleep again; {his} eyes burned and the night was long; rest is a gift
        to talk with animals; the ants complained without end; everybody has troubles of their own
        to be the strongest of all; every door broke in {his} grip; being gentle is a strength, too
        to have a hundred toys; there was no room left to play in; one toy that you love is enough
        to be grown up; there was only work to do; growing takes its time
        to be very fast; {he} ran past everything beautiful; slow eyes see more""",
    "price": """name; earn
        {number} coins; [washing windows|pulling weeds|walking dogs]
        a whole jar of pennies; [sweeping steps|carrying baskets|picking apples]
        one silver coin; [minding the geese|raking leaves|stacking wood]
        {number} dollars; [selling lemonade|washing cars|shoveling snow]
        a purse of nickels; [shelling peas|feeding rabbits|polishing shoes]
        {number} quarters; [watering plants|painting a fence|reading to a neighbor]""",
    "ill": """name; like
        a cold; [hot tea|warm socks|thick soup]
        a fever; [cold towels|cool water|a silly story]
        a broken leg; [picture books|card games|visits]
        chicken pox; [oatmeal baths|funny masks|riddles]
        a sore throat; [honey|warm milk|a quiet song]
        a toothache; [soft pudding|ice cubes|a soft blanket]
        the flu; [long naps|orange juice|chicken broth]""",
    "home": """name; in
        house; in a {big} {color@home} house [near the woods|at the end of the street|by a field|next to a mill]
        cottage; in a {big} cottage [by the sea|under a {tree} tree|on a hill]
        apartment; in an apartment [above a bakery|on the {floor} floor|with a round window]
        farmhouse; in a {color@home} farmhouse [with a barn|among wheat fields|by a pond]
        cabin; in a {big} cabin [beside a lake|in the mountains|deep in the pines]
        houseboat; on a {color@home} houseboat [with flower boxes|under the bridge]""",
}

# Where the hero is a young animal: its kinds, and the places and homes of that world.
KINDS = """kind; name; in; hand
    bear; cave; in a warm cave [under the hill|behind a waterfall|in the pine woods]; paw
    rabbit; burrow; in a {big} burrow [under the meadow|below a hedge|beside a turnip field]; paw
    fox; den; in a hidden den [under the roots of a {tree} tree|between the rocks|near the brook]; paw
    squirrel; nest; in a nest [high in a {tree} tree|made of twigs|above the forest path]; paw
    mouse; hole; in a hole [behind the kitchen wall|under the floor of a barn|at the edge of a cornfield]; paw
    hedgehog; nest; in a nest of leaves [below a hedge|behind the compost|near the garden wall]; paw
    duck; nest; in the reeds [by the pond|at the bend of the river|next to the mill]; wing
    frog; pond; in a {big} pond [full of lilies|in the middle of the forest|behind a farm]; hand
    turtle; pool; beside a quiet pool [in the marsh|under the willows]; foot
    otter; holt; in a holt [on the river bank|under a {tree} tree]; paw
    beaver; lodge; in a lodge [of sticks and mud|in the middle of the lake]; paw
    mole; tunnel; in a tunnel [below the lawn|beneath the vegetable patch]; paw
    raccoon; hollow; in the hollow of a {tree} tree [near the camp|by the creek]; paw
    penguin; igloo; in an igloo [on the ice|by the frozen bay]; wing
    elephant; clearing; in a clearing [of the jungle|beside the great river]; trunk
    monkey; treetop; in the top of a {tree} tree [in the jungle|above the river]; hand
    badger; sett; in a sett [under the old wall|deep in the wood]; paw
    dragon; tower; in a ruined tower [on a cliff|above the valley]; claw
    kitten; basket; in a basket [behind the stove|in the barn loft|on the porch]; paw
    puppy; kennel; in a kennel [behind the farm|next to the garden|under the porch]; paw
    koala; branch; on a branch [of a gum tree|above the creek]; paw
    lion; rock; below a flat rock [in the savanna|beside a water hole]; paw"""

WILD_PLACES = """name; in; spot; sight; do
    the forest; in the forest; [under a pile of leaves|inside a hollow log|beside a mushroom|behind a mossy rock];
        [tall trees|a spider's web|tracks in the mud]; [pick berries|climb a tree|listen to the birds]
    the meadow; in the meadow; [among the poppies|next to a molehill|under a haystack|near the old gate]; [grazing
        sheep|a cloud of butterflies|a hare]; [pick flowers|chase butterflies|have a picnic]
    the river; by the river; [under the bridge|on the muddy bank|behind the water mill|in a patch of clover]; [a
        dragonfly hunt|stepping stones|a heron on one leg]; [skip stones|look for minnows|paddle]
    the lake; by the lake; [in the reeds|under the dock|inside a rowboat|behind a willow]; [fish jumping|a swan with
        her babies|water lilies]; [throw stones into the water|go fishing|swim]
    the hill; on the hill; [behind a boulder|in an old burrow|under a blueberry bush|beside the windmill]; [the old
        windmill|a hawk in the sky|a herd of goats]; [roll down the slope|race the wind|look far away]
    the swamp; in the swamp; [on a floating log|under the ferns|beside a bubbling puddle]; [a sleepy crocodile|mist
        over the water|glowing mushrooms]; [jump from log to log|listen to the frogs|catch mosquitoes]
    the orchard; in the orchard; [under a ladder|between two baskets|in the long grass]; [rows of trees|wasps on a
        pear|a farmer's cart]; [gather plums|shake the branches|nap in the shade]
    the waterfall; at the waterfall; [behind the falling water|on a wet stone|in a small cave]; [a rainbow in the
        spray|jumping salmon|ferns as big as umbrellas]; [take a shower|listen to the roar|slide over the rocks]
    the clearing; in the clearing; [beside a tree stump|under a toadstool|in a ring of stones]; [a deer with her
        fawn|sunbeams between the trees|a party of elves]; [dance in a circle|watch the moon|tell stories]
    the cornfield; in the cornfield; [between two rows|under a scarecrow's hat|next to a furrow]; [a scarecrow|golden
        ears in the wind|a tractor asleep]; [nibble corn|run through the rows|play tag]
    the cliff; on the cliff; [in a crack of the rock|behind a thorn bush|on a narrow ledge]; [the wide sea|puffins on
        their nests|a ship like a toy]; [watch the waves|shout for the echo|count ships]
    the desert; in the desert; [behind a cactus|under a warm stone|in a dry stream]; [a caravan|hills of sand|a lizard
        on tiptoe]; [slide down the sand|look for water|draw lines in the sand]"""

WILD_ADULTS = """first; called; gender
    {his} mother; Mama {Kind}; she
    {his} father; Papa {Kind}; he
    {his} grandmother; Grandma {Kind}; she
    {his} grandfather; Grandpa {Kind}; he
    {his} big sister {nickname@adult}; {nickname@adult}; she
    {his} big brother {nickname@adult}; {nickname@adult}; he
    {his} aunt {aunt@adult}; Aunt {aunt@adult}; she
    {his} uncle {uncle@adult}; Uncle {uncle@adult}; he"""
