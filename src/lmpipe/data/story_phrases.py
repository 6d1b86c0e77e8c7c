"""Sentences that fit into any story: openings, asides, reactions, closings and the small threads that run along.

Each line of an entry is one alternative in the template language of `lmpipe.data.stories`. `{he}`, `{him}`, `{his}` are
the hero's; the pronouns of the others, such as `{friend.he}`, turn into names where they could be taken for the hero.
"""

PHRASES: dict[str, str] = {
    "one_day": """
        one day
        one [sunny|bright|warm|windy|quiet|fine|lovely|cool|golden|misty|busy] [morning|afternoon|day]
        one {weekday}[ morning| afternoon|, right after breakfast|]
        early one [morning|{weekday} morning]
        on a [sunny|bright|quiet|chilly|beautiful|rainy] [{weekday}|morning|afternoon]
        one day, after [breakfast|lunch|a long nap|the rain]
        """,
    "some_day": """
        one [day|morning|afternoon]
        one {weekday}[ morning| afternoon|]
        early one [morning|{weekday}]
        on {weekday}
        the other day
        """,
    "later": """
        [a little|a short while|an hour|a few minutes] later,
        after [a while|that|lunch|a long time|a moment],
        [soon|before long|then|just then|in the end],
        at [last|that moment],
        all of a sudden,
        when the clock struck {number},
        """,
    "opening": """
        once upon a time, there was a {trait} [little |young |]{kind} named {hero}. [{he} lived {home.in}.|{he} liked
            to {hobby}.|]
        once[ upon a time|], in a {small_town}, there lived a [little|young] {kind} named {hero}. {hero} was {trait}[
            and {trait}|, but also a little {flaw}|].
        {hero} was a {trait} [little|young] {kind} who [liked|loved] to {hobby}[ and to {hobby}|].
        there was once a [little |young |very {trait} |]{kind} [called|whose name was] {hero}. {he} lived {home.in}[
            with {adult}|].
        a [little|young|{trait}] {kind} named {hero} lived {home.in}[ with {adult}|]. {he} was {trait}, and {he} liked
            to {hobby}.
        {hero} lived {home.in}[ with {adult}|]. {he} was a {trait} [little |]{kind} [who could {hobby} all day|and
            liked nothing better than to {hobby}].
        [in|not far from] a {small_town} lived {hero}, a {trait} {kind}. [every day|most of all], {he} liked to
            {hobby}.
        long ago, when [the hills were young|stars still told jokes|everybody had time], a {kind} named {hero} lived
            {home.in}. {he} was always {trait}.
        do you know {hero}? {he} is a {trait} [little |]{kind} who likes to {hobby}. this is what happened to {him}.
        [everybody in the {town} knew {hero}|all the neighbors knew {hero}], the {trait} {kind} who [lived
            {home.in}|liked to {hobby}].
        {hero} was only {age} years old, but {he} was a very {trait} {kind}. {he} [loved|knew how] to {hobby}.
        """,
    "small_town": """
        [big|small|quiet|busy|sleepy|green|tiny|far-off|windy|friendly|lonely|pretty|snowy] {town}
        """,
    "age": "\n".join(("three", "four", "five", "six", "seven")),
    "side": """
        on the way, {he} saw {number} {critters} {doing} {nearby}.
        {number} {critters} were {doing} {nearby}[, but {hero} had no time to look|, and {hero} waved at them|].
        the {flower} [smelled|looked] {great}, and {a_few} {critters} were {doing} {nearby}.
        it smelled of {smell}[ and {smell}|] [everywhere|that day|outside|on the road].
        a {trait} {job@side} [was passing by|came along] with a {color} {tool}. "good [morning|day]," {hero} said to
            the {job@side}.
        {hero} [hopped over|walked around|jumped into] a {big} puddle and [laughed|splashed|made a face].
        the sun [shone|played] on the {tree} trees, and [the air was warm|a light wind blew|everything looked
            {great}].
        somewhere, somebody was [playing|practicing] the {instrument}, [rather badly|and it sounded {great}|and it
            echoed between the {tree} trees].
        {he} [found|picked up] a {treasure} {nearby} and [put it in {his} pocket|left it there for somebody
            else|showed it to a [snail|{animal}]].
        high above, a cloud [looked like|had the shape of] a {animal}[ with a {wear}|].
        a {big} {animal} was painted on [a door|a wall|a sign] nearby. {hero} [winked at it|thought it looked
            {trait}].
        {he} [whistled|hummed] a song about [a {trait} {animal}|{number} {critters}|a {animal} and a {animal}].
        the [bells|birds|wind] [rang|sang|whispered] [far away|in the distance|over the {roofs}].
        [{a_few}|{number}] {critters} sat {nearby}, as if they were waiting for [supper|a story|the bus].
        {he} passed a {old} [gate|bench|mill|well|fence|shed] where {flower} and {flower} grew.
        [a {trait} {animal}|a {job}] was selling {tasty} {treat}, but {hero} had no money with {him}.
        {he} counted {critters} until {he} got to {number}, and then {he} [lost count|started again|forgot why].
        it was so [quiet|warm|still|early] that you could hear [a {flower_one} open|the {critters} {doing}|the grass
            grow].
        """,
    "a_few": "\n".join(("a few", "some", "many", "a dozen", "a crowd of", "lots of", "a pair of")),
    "flower_one": "\n".join(("rose", "daisy", "tulip", "violet", "lily", "poppy", "buttercup", "dandelion")),
    "joy": """
        {hero} was {happy}.
        {hero} was {happy}[ and {happy}|], and {he} [clapped|danced around|laughed out loud|jumped up and down|could
            not stop smiling].
        {hero} [smiled|beamed|grinned] from ear to ear.
        {hero} felt [warm|light|{happy}] [all over|like a {animal} in the sun|from head to toe].
        "{hooray}!" {cried} {hero}. {He} was {happy}.
        [what a {great} feeling that was|nothing could have made {hero} happier]!
        {hero} was so {glad} that {he} [hugged everybody|kissed {adult} on the nose|turned {number} somersaults|sang].
        """,
    "glad": "\n".join(("happy", "glad", "proud", "excited", "pleased", "thrilled", "delighted", "relieved")),
    "sorrow": """
        {hero} was {sad}.
        {hero} felt {sad}, and [a tear|tears] ran down {his} [cheek|face].
        {hero} sat down {nearby} and [cried|sighed|put {his} head on {his} knees].
        {hero} was {sad}[ and {tired}|]. {he} [did not know what to do|wanted to go home|could hardly speak].
        "{oh_no}," {said} {hero}, and {his} [lip|voice] [trembled|shook].
        {hero} had never been so {unhappy}. even the {critters} [{nearby}|in the garden] were quiet.
        {his} heart felt as heavy as [a stone|a {animal}|a wet {wear}|an anchor].
        """,
    "unhappy": "\n".join(("sad", "upset", "unhappy", "gloomy", "lonely", "miserable", "disappointed")),
    "courage": """
        {hero} took a deep breath[ and counted to {number}|].
        {his} heart was beating like a drum, but {he} did not [turn back|give up|run away].
        {hero} thought of [{adult}|a {trait} {animal} in a story|the {trait} {animal} in {his} favorite book] and felt
            [a little |much |]braver.
        "i can do this," {hero} told {himself}[ {quickly}|].
        {hero} was {scared}, but {he} [tried|went on] anyway.
        {his} knees [shook|felt like {pudding}], but {he} held {his} head high.
        """,
    "pudding": "\n".join(("pudding", "jelly", "butter", "wet paper", "noodles")),
    "thanks": """
        "thank you[ so much|, thank you|]," said {hero}[ {softly}|].
        {hero} [thanked|hugged] {helper} and [promised to come back|waved for a long time|offered a {treasure}].
        "you are the {kindest} person in the {town}," {hero} told {helper}.
        "how can i ever thank you?" asked {hero}. "[just smile|help somebody else one day|bring me some {treat}],"
            said {helper}.
        """,
    "kindest": "\n".join(("kindest", "nicest", "best", "cleverest", "most helpful")),
    "moment": """
        {hero} thought for a [moment|while|long time][ and scratched {his} [head|chin|ear]|].
        then {he} had [an idea|a {great} idea].
        {hero} looked [left and right|up and down|all around][, but nobody was there|].
        "hmm," {said} {hero}. "[what would a {animal} do?|there must be a way.|let me think.]"
        for a moment, it was so quiet that {he} could hear [the clock|{a_few} {critters}|{his} own heart].
        """,
    "closing": """
        that [night|evening], {hero} [slept [well|deeply|like a {animal}]|dreamed of a {color} {animal}|dreamed of
            {critters} {doing} {nearby}].
        {later} {hero} went home, where {adult} had made {tasty} {treat}[ with {fruit}|].
        at home, {hero} told {adult} [everything|the whole story|what had happened], and [they laughed
            together|{adult} listened with big eyes|they ate {tasty} {treat} for supper].
        [when the moon rose|when the stars came out|at bedtime], {adult} tucked {hero} in and {whispered}, "[good
            night|sleep tight|sweet dreams], my {trait} {kind}."
        it had been a {great} day.
        [from then on|after that|and ever since], {hero} was known as the [{trait}|{trait} and {trait}] {kind} of the
            {town}.
        and if you [pass by|go there on a {weekday}], you can still hear {hero} [laugh|tell the story|sing about it].
        {hero} fell asleep with a smile, and [{a_few} {critters} sang outside|the moon shone on the {roofs}|nothing
            could wake {him} up].
        and they all had {treat} and {treat} [until the moon came up|and told stories about {critters}|and played
            {game}].
        """,
    "whispered": "\n".join(("whispered", "said", "said softly", "murmured")),
}

# A thread is a small second subject: it is introduced near the beginning, comes back in the middle and at the end.
# The lines of one thread's three parts are separated by a line of three dashes.
THREADS: dict[str, str] = {
    "wear": """
        {he} always wore a {color@wear} {wear@own} that {adult} had [made|bought|found] for {him}.
        nobody ever saw {him} without {his} {color@wear} {wear@own}.
        ---
        {he} [straightened|held on to|adjusted] {his} {color@wear} {wear@own}[ and looked up|].
        {his} {color@wear} {wear@own} was [dusty|a bit crooked|covered with leaves] by now.
        ---
        {he} took off the {color@wear} {wear@own} and [put it next to the bed|hung it on a nail|laid it on a chair].
        and of course, {he} still had the {color@wear} {wear@own} on when {he} fell asleep.
        """,
    "pocket": """
        in {his} pocket, {he} [always |]kept a {treasure@own} for good luck.
        {he} owned a {treasure@own}, which {he} had [found {nearby}|got from {adult}|won in a game of {game}].
        ---
        {he} [squeezed|touched] the {treasure@own} in {his} pocket[ for luck|].
        {he} [rubbed|turned] the {treasure@own} in {his} {hand}, as {he} always did when {he} was [thinking|{scared}].
        ---
        {he} put the {treasure@own} [on the windowsill|under {his} pillow|back in its box] and closed {his} eyes.
        "you really do bring luck," {he} told the {treasure@own}.
        """,
    "song": """
        {he} knew a song about a {trait@song} {animal@song} and sang it [every morning|in the bath|all day long].
        {his} favorite song was about a {trait@song} {animal@song} [who danced on the roof|who went to sea|in love].
        ---
        [softly|under {his} breath], {he} sang the song about the {trait@song} {animal@song}.
        {he} [hummed|whistled] the song about the {trait@song} {animal@song} to {himself}.
        ---
        that evening, everybody sang the song about the {trait@song} {animal@song}.
        and from [far away|the window], you could hear the song about the {trait@song} {animal@song}.
        """,
    "pretend": """
        most days, {he} pretended to be a {pretend@own}.
        when {he} grew up, {he} wanted to be a {pretend@own}.
        ---
        a real {pretend@own} would not give up now, {he} thought.
        "what would a {pretend@own} do?" {he} asked {himself}.
        ---
        "good night, my little {pretend@own}," said {adult}.
        and {he} knew that {he} would make a {great} {pretend@own}.
        """,
    "snack": """
        {adult} had packed {tasty@snack} {fruit@snack} in {his} {color@bag} {bag@own}.
        {he} never left home without {fruit@snack} in {his} {color@bag} {bag@own}.
        ---
        {he} took [some {tasty@snack}|a few] {fruit@snack} out of the {color@bag} {bag@own} and [ate|nibbled].
        the {fruit@snack} in the {color@bag} {bag@own} [smelled|looked] {great}, but {he} saved them for later.
        ---
        when {he} came home, the {color@bag} {bag@own} was empty, and not one of the {fruit@snack} was left.
        then everybody shared the last {fruit@snack} from the {color@bag} {bag@own}.
        """,
    "count": """
        {his} favorite number was {number@own}, and {he} [saw|found] it everywhere.
        {he} liked to count {critters@own}. {his} record was {number@own}.
        ---
        {he} counted to {number@own} in {his} head.
        there were {number@own} {critters@own} {nearby}, which had to be a good sign.
        ---
        {he} counted the good things of the day and came to {number@own}.
        "exactly {number@own}," {he} [said|whispered], and {he} was {happy}.
        """,
    "drawing": """
        {he} had a {color@pad} [notebook|sketchbook] and drew in it every day.
        {he} drew everything {he} saw in a {color@pad} notebook.
        ---
        {he} wished {he} had {his} {color@pad} notebook with {him}.
        "i will draw this in my {color@pad} notebook," {he} thought.
        ---
        that evening, {he} drew it all in the {color@pad} notebook[, even the {critters}|, on page {number}|].
        the last page of the {color@pad} notebook was full of [smiling faces|hearts and {flower}|{critters}].
        """,
}

# Threads that only a child can have.
CHILD_THREADS: dict[str, str] = {
    "pet": """
        {he} had a {fur@pet} {pet} named {nickname@pet}.
        {his} {fur@pet} {pet}, {nickname@pet}, [followed {him} everywhere|was always with {him}].
        ---
        {nickname@pet} the {pet} {pet.did}.
        the {pet} {pet.did}[, as if to help|]. "good {nickname@pet}," said {hero}.
        ---
        {nickname@pet} {pet.end}.
        at home, {nickname@pet} the {pet} {pet.end}, [tired|happy] after such a day.
        """,
    "brother": """
        {he} had a baby brother named {boy@baby}, who [copied everything|could only say "more"|laughed at every
            {animal}].
        ---
        "{hero}!" cried baby {boy@baby} [from his stroller|with both arms in the air].
        little {boy@baby} [clapped|giggled|pointed at {a_few} {critters}].
        ---
        {he} told baby {boy@baby} about it, and {boy@baby} [laughed|yawned|blew a bubble].
        even baby {boy@baby} seemed to understand, and he [clapped|smiled in his sleep].
        """,
    "sister": """
        {he} had a baby sister named {girl@baby}, who [copied everything|could only say "no"|laughed at every
            {animal}].
        ---
        "{hero}!" cried baby {girl@baby} [from her stroller|with both arms in the air].
        little {girl@baby} [clapped|giggled|pointed at {a_few} {critters}].
        ---
        {he} told baby {girl@baby} about it, and {girl@baby} [laughed|yawned|blew a bubble].
        even baby {girl@baby} seemed to understand, and she [clapped|smiled in her sleep].
        """,
}
