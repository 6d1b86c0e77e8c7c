"""The plots of the story grammar: what happens between the opening and the closing of a story.

A plot is a row of beats, divided by empty lines; each line of a beat is one alternative in the template language of
`lmpipe.data.stories`, and a deeper indent continues a line. A dash among them says that the beat may be left out; a
single
`*` marks a place where a new paragraph may begin. Words that are bound once, such as `{thing}` or `{color@thing}`, stay
the same to the end of the story. `MORALS` holds last words for each plot.
"""

PLOTS: dict[str, str] = {
    "lost_thing": """
        {he} had a {color@thing} {thing}, and {he} [loved|liked] to {thing.use} [every day|all day long|{nearby}].
        of all {his} things, {he} loved {his} {color@thing} {thing} the most. {he} had got it from {adult}.
        {adult} had given {him} a {color@thing} {thing} for {his} birthday. {he} never went anywhere without it.

        {one_day}, {he} took the {thing} to {place} [to {thing.use}|and {thing.used} for hours]. there were {critters}
            and {place.sight}.
        {one_day}, {hero} {move} to {place} with {friend}. they wanted to {place.do}, and of course the {thing} came
            along.
        {one_day}, {hero} went to {place} with the {color@thing} {thing} [under {his} arm|in {his} {bag}]. {he}
            stopped to look at {place.sight}.

        {side}
        -

        *

        when {he} wanted to {thing.use} again, the {thing} was gone!
        but when it was time to go home, {he} could not find {his} {thing} anywhere.
        {later} {hero} looked [down|around|into {his} {bag}]. "{oh_no}! my {thing} is gone!" {he} {cried}.

        {sorrow}
        -

        {he} looked {nearby} and {nearby}, but [there was no {thing}|all {he} found was a {treasure}].
        "have you seen a {color@thing} {thing}?" {he} asked [a {job}|everyone {he} met|{number} people]. nobody had.
        {he} asked {a_few} {critters} {nearby}, but they only [looked at {him}|went on {doing}].
        -

        {middle}

        *

        then {helper} came by. "what is the matter?" asked {helper}. {hero} told {helper} about the {thing}.
        {helper} saw {him} and stopped. "[don't cry|don't worry]," {helper.he} said {softly}. "we will look for it
            together."
        "did you lose something {color@thing}?" asked {helper}, who was [eating {fruit}|carrying a {tool}]. {hero}
            nodded.

        they looked for a long time. in the end, {helper} pointed. the {color@thing} {thing} was {place.spot}!
        "[think back|think hard|don't give up]," said {helper}. "where did you look at {place.sight}?" {He} ran back,
            and there, {place.spot}, lay the {thing}.
        {helper} [bent down|got down on the ground] {place.spot} and held something up. it was the {color@thing}
            {thing}!

        {joy}
        -

        {thanks}

        {he} [held|carried] the {color@thing} {thing} [tightly|with both arms|close] all the way home.
        that day, {he} took the {color@thing} {thing} out again and {thing.used} until [sunset|{his} arms were
            tired|it was dark], and {helper} [watched|clapped|had a turn].
        {he} [painted|wrote] {his} name on the {thing}, so that it could never get lost again.
        -
        """,
    "sharing": """
        {one_day}, {adult} gave {hero} a {big} plate of {tasty} {treat@plate}. "they are all for you," {adult} said.
        {one_day}, {hero} got {number@plate} {fruit@plate2} from {helper} and a plate of {treat@plate} from {adult}.
        {one_day}, {adult} made {treat@plate}. it smelled of {smell} in the whole {home}.

        {he} took the {treat@plate} to {place} and sat down {place.spot}.
        {hero} carried the plate to {place}, because {he} wanted to eat in peace. {he} looked at {place.sight}.
        -

        {side}
        -

        soon {friend} came along. "[mmm|oh], [that smells {great}|what a {great} smell]!" said {friend}. "may i have
            some {treat@plate}, please?"
        {friend} {move} up to {him} and looked at the {treat@plate} with big eyes. "i had no [breakfast|lunch],"
            {friend} said.

        "no!" {said} {hero}. "{adult.name} made the {treat@plate} for me." {He} [hid|covered] the plate with {his}
            {cloth}.
        {hero} shook {his} head. "there is not enough," {he} {said}, but that was not true.
        {hero} pretended not to hear and [turned around|ate faster|looked at the {critters}].

        *

        {friend} was {sad} and went away to play {game@alone} alone.
        {friend} said nothing. {friend.he} walked away with {friend.own} head down.

        {hero} ate and ate, but [somehow|the strange thing was that] the {treat@plate} did not taste {great} anymore.
        after the {ordinal} bite, {his} belly hurt, and [it was too quiet|there was nobody to talk to].
        -

        {middle}

        {moment}
        -

        *

        {he} {move} after {friend}. "wait!" {he} {cried}. "[let's share|please come back]. half of this is yours."
        {he} found {friend} {nearby}. "i'm sorry," {said} {hero}. "here, take the biggest piece."

        {friend} [smiled|was {surprised}] and [sat down|took a bite]. "i have never eaten such {great} {treat@plate},"
            {friend} said[ with a full mouth|].
        they sat side by side and ate the {treat@plate}[ until only crumbs were left|, one for you and one for me].
            {a_few} {critters} got the crumbs.

        then {friend} [gave {hero} a {treasure}|showed {hero} how to {hobby}|had a {great} idea], and they played
            {game} [until dark|all afternoon].
        from then on, {hero} and {friend} shared everything, even {fruit} and [secrets|{treat}].
        """,
    "fear": """
        there was only one thing: {hero} was [afraid|scared|frightened|terrified] of {fear}.
        {he} was not afraid of {critters} or {critters}, but {he} was afraid of {fear}.
        {he} had never told anybody, but {fear} [frightened {him}|made {him} shiver].

        {one_day}, {he} was {fear.where} when {fear.sign}.
        {some_day}, {fear.sign}. {hero} was alone {fear.where} and [froze|held {his} breath|dropped {his} {fruit}].
        {some_day}, {friend} came to play {game}. they were {fear.where}, and all of a sudden, {fear.sign}.

        {his} heart jumped like a {animal}. "{oh_no}!" {he} {whispered}. "it is going to [eat|catch|get] me!"
        {he} [hid|crawled] [under a blanket|behind a chair|into a corner] and did not move.
        "{adult.name}!" {he} {cried}. "there is something there! it is [big|huge] and has {number} [teeth|eyes|legs]!"
        -

        {middle}

        *

        {adult} came with a {color@light} {light@own} and sat down next to {him}. "what are you afraid of?" {adult}
            asked {softly}.
        {adult} heard {him} and came with a {color@light} {light@own}. "{fear}?" said {adult}. "when i was little, i
            was afraid of {critters}."
        "let us look at it together," said {adult} {softly} and [took|held] {his} {hand}. in the other {hand}, {adult}
            had a {color@light} {light@own}.

        {courage}
        -

        step by step, they went closer. {hero} held the {color@light} {light@own}. one, two, three... and what was it?
            it was only {fear.truth}!
        {later} {hero} opened one eye, and then the other. it was nothing but {fear.truth}!
        they [looked|listened] again, and then {adult} laughed. "it is only {fear.truth}," {adult} said. "see?"

        {hero} [began to laugh|giggled], too. "[i thought it was|it sounded like] a {trait} {animal} with a {wear},"
            {he} said.
        {hero} was {surprised}. {he} [waved at it|looked again and again|touched {his} nose]. "hello," {he} {said}.

        *

        {joy}
        -

        the next time, {he} was still a little {scared}, but {he} [took the {color@light} {light@own}|thought of
            {fear.truth}] and went on.
        after that, {hero} was not afraid of {fear} anymore. {he} even [told {friend} about it|drew a picture of
            it|made up a song about it].
        -
        """,
    "creature": """
        {one_day}, {hero} {move} to {place} to {place.do}. {side}
        {one_day}, on the way to {place}, {he} heard a [small|strange|sad] sound.
        {one_day}, {hero} and {friend} were in the middle of a game of {game} {place.in}.

        {place.spot}, {he} found a {size} {hue@creature} {creature}. it had hurt its {creature.part} and
            {creature.called} {sadly}.
        there, {place.spot}, sat a {size} {hue@creature} {creature}. it {creature.called}, and its {creature.part} was
            {hurt}.

        "you poor thing," {said} {hero} {softly}. "[did you fall|are you lost|does it hurt]?" The {creature}
            {creature.called}.
        the {creature} was {scared}[ and tried to hide|]. "don't be afraid," {hero} whispered. "i will help you."
        -

        {middle}

        *

        {he} wrapped the {creature} in {his} {color@wrap} {cloth@wrap} and carried it home.
        {he} made a bed for it out of {soft} and {soft}, in a {bag@bed}.
        {hero} took it to {helper}, who knew a lot about animals. {helper} looked at the {creature.part} and nodded.

        "what does a {creature} eat?" {he} asked {adult}. "i think it likes {creature.food}," said {adult}.
        {adult} brought a [bandage|bowl of water|warm cloth] for the {creature.part}, and {hero} gave it
            {creature.food}.
        -

        every day, {he} [brought|gave] it {creature.food} and told it stories about {critters}. {he} named it
            {nickname@creature}.
        for {number} days, {hero} looked after the {creature}, and {he} called it {nickname@creature}. it [slept|ate]
            a lot and [grew stronger|{creature.called} softly].

        *

        {one_fine_day}, {nickname@creature} {creature.moved}. its {creature.part} was well again!
        then the {creature.part} was healed, and {nickname@creature} {creature.moved} all over the {home}.

        {hero} knew that {nickname@creature} [missed|longed for] its {creature.home}. {he} was {sad}, but {he} took
            the {creature} back to {place}.
        "you want to go home to your {creature.home}, don't you?" {said} {hero}. {he} {opened} the {bag@bed} [in which
            it had slept|where its bed was].

        the {creature} {creature.called} one last time and {creature.moved} away. {hero} waved with {his} {cloth}.
        {nickname@creature} looked back, {creature.called}, and was gone. {hero} [smiled and cried|waved for a long
            time].

        and [every spring|on sunny days|sometimes], a {hue@creature} {creature} comes to {his} window and asks for
            {creature.food}.
        a week later, there was a {treasure} on the doorstep, and {hero} knew who had brought it: {nickname@creature}.
        """,
    "baking": """
        {one_day}, {hero} wanted to make {dish} for {friend}, who [was coming to visit|had a birthday|loved {dish}].
        {one_day}, {adult} said, "today we will make {dish}." {hero} put on a {color@apron} apron that was much too
            [big|long].
        {one_day}, {hero} was {happy}, because {adult} had promised to show {him} how to make {dish}.

        they [took out|needed] {dish.mix}. {hero} {stirred} it all with a [big|wooden|long|silver] spoon[ until {his}
            arm was {tired}|].
        "first we need {dish.mix}," said {adult}. {hero} [got|fetched] everything and only dropped [one thing|the
            spoon].

        {side}
        -

        soon there was [flour|dough|a spot] on {his} nose, on the {animal} and even on the {lamp}.
        {hero} licked the spoon. "[mmm|yum]," {he} {said}, "it tastes like {fruit}."
        -

        {middle}

        *

        but then something went wrong: {dish.wrong}.
        they waited and waited. when they looked, {dish.wrong}!
        "{oh_no}!" {cried} {hero}. {He} saw that {dish.wrong}.

        {sorrow}
        -

        "never mind," said {adult} {softly}. "[every cook|even a chef] makes mistakes. what can we do about it?"
        {adult} only laughed. "my first {dish} looked like a {animal}," {adult} said. "let us think."

        {moment}
        -

        so they {dish.rescue}, and {hero} [helped|watched the clock|held the bowl].
        {hero} said, "i know!" Then {he} {dish.rescue}, {quickly}.

        *

        {later} the {home} smelled of {smell}. the {dish} was {tasty} and {tasty}!
        this time, everything went well. the {dish} came out {tasty}, and {adult} put it on a {color@plate} plate.

        {friend} [came|knocked] at {number} o'clock and ate {number} pieces. "[who made this|this is {great}]?"
            {friend} asked. "i did," {said} {hero} and blushed.
        {hero} took some of it to {friend}, who [was {surprised}|could not believe it]. "you made this {color@plate}
            plate of heaven?" {friend} said.
        -

        {joy}
        -
        """,
    "weather": """
        {some_day}, {hero} wanted to go to {place} to {place.do}. {he} had [packed|thought of] everything: a {bag}
            with {fruit} and {his} {color@thing} {thing}.
        {some_day}, {hero} and {friend} were on the way to {place}. they wanted to {place.do}[ and see
            {place.sight}|].

        but then {weather.sign}. "[look|uh-oh]," said {adult}. "there will be {weather}."
        but {weather.sign}, and {a_few} {critters} [hid|hurried home|looked up]. {weather} was coming.

        {middle}

        *

        {later} {weather.hit}.
        before they could say "{fruit}," it began: {weather.hit}.

        {sorrow}
        -

        "it is not fair!" {cried} {hero}. {He} [stamped {his} foot|pressed {his} nose to the window|wanted to
            {place.do}].
        {hero} [pulled|held] {his} {color@wear2} {cloth} over {his} head and ran back to the {home}.
        -

        "[we can have fun at home|let us make our own fun], too," said {adult}. they pretended to be {place.in}, with
            {place.sight} made of {soft} and {soft}.
        "come here," said {adult}. "did you know that {weather} is [good for the {flower}|the friend of all
            {critters}]?" Then they played {game} and ate {treat}.
        then {friend} [knocked at the door|had an idea]. together, they played {game} and {game} by the
            [stove|fire|lamp], and {friend} made {tasty} {treat}.

        {hero} took {his} {color@thing} {thing} and {thing.used} {indoors}, and soon {he} forgot about {weather.the}.
        they [laughed|sang] so loudly that nobody heard {weather.the} anymore.

        *

        then {weather.after}. "[come|quick]!" said {adult}. They all {move} outside.
        when they looked out again, {weather.after}.

        {hero} saw {number} {critters} {doing} {nearby}. everything smelled of {smell}.
        they [danced|walked] to {place} after all, and it was even better than before: they had {place.sight} all to
            themselves.
        -

        {joy}
        -
        """,
    "skill": """
        all the other children could {skill}, but {hero} could not.
        more than anything, {he} wanted to learn to {skill}.
        {one_day}, {hero} saw {friend}. {friend.he} was {skill.doing} {nearby}, and it looked so easy.

        "i will never learn it," {said} {hero}. "yes, you will," said {adult}. "nobody is born {skill.doing}."
        "will you teach me?" {he} asked {friend}. "of course," said {friend}. "come to {place} on {weekday}."

        {one_day}, {he} went to {place} to try it. {side}
        so {he} {move} to {place} and began, next to {place.sight}.

        {middle}

        *

        the first time, {he} {skill.trouble}. the second time, {he} {again}.
        {he} tried, but {he} {skill.trouble}. [some {critters} seemed to laugh|{number} people turned around|it hurt a
            bit].
        it was hard. {hero} {skill.trouble}[ again and again|, {number} times in a row|].

        {sorrow}
        -
        "i give up!" {cried} {hero}. {He} threw {his} {wear} {nearby}.
        -

        *

        {helper} was watching and said {softly}, "{skill.tip}. that is the whole secret."
        then {friend} said {softly}, "{skill.tip}. {critters} do it like that, too."
        "may i tell you a secret?" asked {adult}. "{skill.tip}, and think of a {trait} {animal}."

        {courage}
        -

        {hero} practiced every {weekday}, in {sun} and in {rain}, until {his} [legs|arms|ears] were
            [tired|sore|heavy|as stiff as boards].
        {he} tried again the next day, and the day after that. {number} days went by.
        -

        and then, {one_fine_day}, it happened: {he} {skill.done}!
        {later} {he} tried once more, and {quickly} {he} {skill.done}. "{hooray}!" {he} {cried}.

        {joy}
        -

        "i knew you could do it," said {adult}, and they had {tasty} {treat} to celebrate.
        now, {hero} is {skill.doing} all the time, even {nearby}, and {he} teaches [the little ones|{a_few}
            {critters}]. "{skill.tip}," {he} tells them.
        """,
    "broken_toy": """
        {he} had a {color@toy} toy {broken} that had once belonged to {adult}.
        {his} best toy was a {color@toy} {broken} made of {material}. {he} played with it [every day|from morning to
            night].

        {one_day}, {hero} and {friend} were playing {game} with the {broken} {nearby}.
        {one_day}, {he} took the {broken} to {place} to show it to {friend}. {side}

        *

        {friend} wanted to [see|hold] it, too. they both pulled, and crack! the {color@toy} {broken} {broken.damage}.
        then {hero} [stumbled over|ran into] a {tool}, and the {broken} fell down. now it {broken.damage}.
        all of a sudden, there was a loud snap. the {broken} {broken.damage}!

        {sorrow}
        -

        "i'm so sorry," said {friend}. "it was {my_fault}."
        "can it be mended?" asked {friend} {softly}. {hero} did not know.
        {friend} put an arm around {hero}. "[let us think|we can fix it], you and i," {friend} said.
        -

        {middle}

        they took the {broken} to {helper}, who [could repair anything|had a workshop full of tools].
        {hero} carried the pieces to {adult} in {his} {cloth}. "hmm," said {adult} {softly}. "i have seen worse."

        *

        "[what we need|all it takes] is {broken.tool}," {hero} heard. {friend} held the {light@own}, and {hero} held
            the {broken}.
        they needed {broken.tool} and a lot of patience. it took [until {weekday}|{number} minutes|all evening].

        first they cleaned the {color@toy} [paint|parts]. then, {quickly}, they {broken.fix}.
        {hero} [watched|helped] {quickly}. in the end, they {broken.fix} and [painted a {flower_one}|tied a {color}
            ribbon] on it.

        {joy}
        -

        the {color@toy} {broken} was as good as new, and [you could hardly see|only {hero} knew] where it had been
            broken.
        now the {broken} had a scar, but {hero} liked it even more. "it has a story now," {he} told {friend}.
        """,
    "quarrel": """
        {hero} and {friend} did everything together: they {played} {game}, [ate {fruit}|looked for {critters}] and
            told each other secrets.
        {his} best friend was {friend}. every day, they met {place.in} to {place.do}.

        {one_day}, both of them wanted the same thing: a {color@thing} {thing} that lay {place.spot}.
        {one_day}, {hero} wanted to {place.do}, but {friend} had a new {color@thing} {thing} and wanted to
            {thing.use}.
        but {one_day}, they had a quarrel about a {color@thing} {thing}.

        "i saw it first!" {cried} {hero}. "no, i did!" {cried} {friend}.
        "you always want to {thing.use} alone!" {cried} {hero}. "and you always {hobby} when i want to play {game}!"
            said {friend}.

        {hero} was {angry} and said that {friend} was [as {trait} as a {animal}|a silly {animal}|no friend at all].
        {friend} was {angry} and threw the {thing} {nearby}. {hero} [stamped {his} foot|stuck out {his} tongue].

        they went home in two different directions, and the {color@thing} {thing} stayed behind.
        -

        *

        at home, {hero} tried to play {game} alone, but it was no fun.
        {he} wanted to {hobby}, but all {he} could think of was {friend}.
        -

        {sorrow}
        -

        {middle}

        "what is wrong?" asked {adult}. {hero} told {adult} about {friend} and the {thing}. "is a {thing} worth more
            than a friend?" asked {adult} {softly}.
        {adult} [gave {him} {treat}|sat down beside {him}]. "somebody has to say it first," {adult} said. "it is only
            a little word."

        *

        {courage}
        -

        so {he} {move} to {friend}, with {fruit} in {his} {bag}. "i'm sorry," {he} said. "you are my best friend."
        {he} took the {color@thing} {thing} and knocked at {friend.whose} door. "i was wrong," {he} {said}. "you can
            have the {thing}."

        "i'm sorry, too," said {friend}. "i missed you [all day|so much]."
        {friend} was {surprised}. then {friend.he} [smiled|laughed|cried a little]. "i'm sorry, too. let's take
            turns."

        first {hero} took the {thing} and {thing.used}, and then it was {friend.whose} turn. {a_few} {critters}
            watched them.
        that afternoon, they took the {thing} to {place} and {thing.used} together. now the {color@thing} {thing}
            belonged to both of them.
        -

        {joy}
        -
        """,
    "surprise": """
        {weekday} was the birthday of {adult}, and {hero} wanted to plan a surprise.
        soon {adult} would have a birthday. {hero} wanted to plan something {great}.
        "[every day|all year], {helper.name} does so much for us," {hero} told {adult}. "let's give {helper.him} a
            surprise party."

        {he} had only {number} coins, so {he} decided to make a {color@gift} {wear@gift} [out of {soft}|with {flower}
            on it].
        {moment} {He} would [paint|make] a {big} {color@gift} card with a {animal@gift} on it.

        every {weekday}, {he} worked on it {nearby} in secret. when somebody came, {he} hid everything under [a
            blanket|{his} {wear}].
        {hero} went to {place} to get {flower@gift} and {treat}. {side}

        {middle}

        *

        it was hard to keep the secret. "what have you got there?" asked {friend}. "nothing! just {critters}!" {cried}
            {hero}.
        once, {he} almost said it out loud at breakfast. {he} quickly put {number} spoons of {pudding} into {his}
            mouth.
        -

        then came the big day. {hero} hung up {color} [paper stars|balloons|ribbons] and put {flower@gift} on the
            table.
        when the day came, everybody hid [behind the door|under the table]: {friend}, {a_few} neighbors and even a
            {animal}.

        *

        the door opened. "surprise!" {cried} everybody at once, and somebody played the {instrument}.
        "close your eyes," {said} {hero}. "one, two, three... surprise!"

        {hero} held out {his} present. "what a {great} present! it is the best of my life," {hero} heard, and {he} got
            a big hug.
        there were tears and laughter, and the present was unpacked {quickly}. "{hooray}! did you make this all
            alone?" "yes," {said} {hero} and turned {color}.

        they [danced|sang|played {game}] and ate {tasty} {treat} until {number} o'clock.
        they ate {treat} with {fruit}, and {friend} told a story about a {trait} {animal}.
        -

        {joy}
        -
        """,
    "journey": """
        {one_day}, {adult} said, "pack your {bag@own2}. we are going to {journey}." {hero} had never been there.
        {he} had always wanted to see {journey}. {one_day}, {he} asked {friend}, "will you come with me?"
        {one_day}, a letter came from {helper}, who [was visiting|had moved to] {journey}. "come and see me, and bring
            {friend.name}," it said.

        {hero} packed {fruit@pack}, a {tool@pack} and {his} {color@wear2} {wear@wear2}, and off they went by
            {journey.by}.
        they took the {journey.by}. in {his} {bag@own2}, {hero} had {fruit@pack}, a map and a {color@tool}
            {tool@pack}.

        {side}
        -

        {side}
        -

        *

        after some time, they came to {obstacle}. "{oh_no}," {said} {hero}. "we will never get there."
        then the {journey.by} stopped. in front of them was {obstacle}!
        everything went well until they came to {obstacle}.

        {middle}

        {moment}
        -

        {courage}
        -

        so they {obstacle.way}, {quickly} and {quickly}.
        "[i know|listen]," {said} {hero}. and so they {obstacle.way}.
        they {obstacle.way}. it took [an hour|a long time], but it worked.

        *

        at night, they slept under [the stars|a {tree} tree] and listened to {critters} {doing}.
        they met a {trait} {job} who shared {tasty} {treat} with them and told them about {critters}.
        then it began to rain, and they [ate|shared] the last {fruit} under a {tree} tree.
        -

        {one_fine_day}, they were there. {hero} saw {journey.see}, just as in {his} dreams.
        when they came around the last corner, {hero} [gasped|stood still]: before them lay {journey.see}.

        {joy}
        -

        {hero} [brought|took] a {treasure@gift} home from {journey}, and whenever {he} held it, {he} remembered
            {journey.see}.
        "it was worth every step," said {hero}, and {he} told everybody about {journey.see} and {obstacle}.
        -
        """,
    "promise": """
        {one_day}, {adult} had to go out. "please {duty}, {hero}," said {adult}. "i promise," {said} {hero}.
        {one_day}, {hero} made a promise: {he} would {duty}, all by {himself}. "you can count on me," {he} told
            {adult}.

        but {later} {friend} came by. "come with me," said {friend}. "there is {duty.tempt}!"
        on the way, {he} heard about {duty.tempt}. {friend} was going there, too, in a {color@wear2} {wear@wear2}.

        "just for {number} minutes," thought {hero}. {side}
        "i can {duty} later," {he} told {himself}, and off they went[ to {place}|].
        -

        {friend} and {hero} had so much fun that they forgot the time. {number} {critters} were {doing} {nearby}.
        it was {great}. they had {treat} and {fruit}, and [the time flew|nobody thought of the promise].

        {middle}

        *

        {later} {hero} remembered. {He} {move} back as fast as {he} could, but {duty.result}.
        when {he} finally came back, {duty.result}. "{oh_no}!" {he} {cried}.

        {sorrow}
        -

        "did you remember to {duty}?" asked {adult}. {hero} [looked at {his} feet|turned red]. "no," {he} {said}. "i
            broke my promise."
        {hero} could have told a lie, but {he} said, "i forgot my promise to {duty}. i am sorry."

        {adult} was quiet for a moment. "a promise is like [a bridge|an egg|a {treasure}]," {adult.name} said
            {softly}. "you have to [take care of|look after] it."
        "thank you for telling the truth," said {adult} {softly}. "what can you do to make it good again?"

        *

        {hero} worked hard until [dinner|sunset|{number} o'clock] to put everything right, and {friend} helped {him}.
        then {he} did not rest until everything was as it should be. {he} even [swept the {home}|fed the {critters}].
        -

        the next time, {adult} asked {him} to {duty} again. {friend} called, and there was {duty.tempt}, but {hero}
            said, "first my promise, then the fun."
        from that day on, {he} wore a {color} string around {his} {hand} to remember: {duty}!

        {joy}
        -
        """,
    "mistake": """
        {one_day}, {adult} told {hero}, "please be careful in the {home}." but {hero} did not listen and {mishap}.
        {some_day}, when {adult} was {away}, {hero} {mishap}. {he} knew that {he} should not.
        it happened {some_day}. {hero} and {friend} were alone at home. {hero} {mishap}, although {adult} had said no.

        crash! {hero} had broken {mishap.thing}.
        there was a terrible noise. {mishap.thing} was broken!
        {hero} did not look where {he} was going. a moment later, {mishap.thing} was ruined.

        {his} face turned {color}. "{oh_no}," {he} {whispered}. "{adult.name} will be {angry}."
        {he} quickly hid everything [behind the sofa|under the rug|in a {bag}] and pretended to {hobby}.
        -

        {middle}

        *

        {later} {adult} came in and asked, "who broke {mishap.thing}?" "it was [the wind|a {animal}|{friend.name}],"
            {said} {hero}.
        "what happened here?" asked {adult}. {hero} [shrugged|looked away]. "{number} {critters} came in," {he}
            {said}.

        all afternoon, {hero} had a [stone|knot] in {his} belly. even {his} {tasty} {treat} tasted like {paper}.
        that night, {he} could not sleep. the {critters} outside seemed to say, "{hero}, {hero}, tell the truth."

        {sorrow}
        -

        {courage}
        -

        *

        {he} went to {adult} and said, "it was me. i {mishap}, and i broke {mishap.thing}. and then i told a lie."
        {hero} brought what was left of {mishap.thing}. "i did it," {he} {said}. "i'm so sorry, {adult.name}."

        {adult} [hugged {him}|took {his} {hand}]. "i am sad about it," said {adult.name} {softly}. "but i am proud
            that you told [me|the truth]."
        "that was [brave|hard]," said {adult} {softly}. "things can be mended. it is harder to mend a lie."

        together, they {mishap.mend}. it took {number} [hours|days], and {hero} did not complain once.
        the next {weekday}, {hero} {mishap.mend}, and {friend} lent {him} a {tool}.
        -

        {joy}
        -
        """,
    "plant": """
        {one_day}, {helper} gave {hero} {plant.seed}. "plant it and wait," {helper.he} said {softly}.
        {one_day}, {hero} found {plant.seed} {nearby}. "what is it?" {he} asked {adult}. "that will be a {plant},"
            {adult} said.

        {hero} dug a {hole} with a {color@tool} {digger}, put it in and covered it with earth.
        {he} filled a {color@pot} pot with earth, pushed it in with one finger and put the pot {nearby}.

        every [morning|evening], {he} gave it water and [sang to it|told it a story about {critters}].
        {hero} looked at it {number} times a day. "grow, little {plant}," {he} {said}.

        nothing happened. "[perhaps it is asleep|good things take time]," said {adult}.
        {number} days went by, and there was nothing to see but earth. {friend} said, "it is dead. let us play
            {game}."
        -

        {middle}

        {sorrow}
        -

        *

        then, {one_fine_day}, there was a tiny green tip! {hero} {cried}, "{hooray}!"
        but on {weekday}, something green looked out of the earth. {hero} ran to get {adult}.

        the little {plant} grew [as high as {his} knee|taller than a {animal}|a new leaf every day]. {side}
        one night, there was a storm. {hero} ran out in {his} {color@wear2} {wear@wear2} and tied the {plant} to a
            stick.
        then some {critters@pest} came to eat it, but {hero} [chased them away|built a fence|gave them {fruit}
            instead].

        week after week, {he} watered it and pulled the weeds, [even|also] when {friend} wanted to {hobby}.
        -

        *

        and at last, when [summer|the warm season|the right time] came, there it was: {plant.yield}!
        {one_fine_day}, {hero} could not believe {his} eyes. the {plant} had given {him} {plant.yield}!

        {joy}
        -

        {he} showed it to {helper}, who [nodded|was {happy}]. "you had {patience}," {helper} said.
        "all that from {plant.seed}," said {friend}, who was {surprised}. {hero} shared everything with {friend}.
        {hero} kept one seed for {friend}. "plant it and wait," {he} said {softly}.
        -
        """,
    "contest": """
        {some_day}, there was a poster on the wall: "{contest} on {weekday@contest}! first prize: {contest.prize}!"
        "have you heard?" asked {friend}. "on {weekday@contest}, there will be {contest} {place.in}. the winner gets
            {contest.prize}."

        {hero} wanted to win more than anything. {friend} wanted to win, too.
        "i am going to win!" {cried} {hero}. "we will see," said {friend} and [laughed|winked].

        every day, {hero} went out to practice, and {he} {contest.past} until {he} was {tired}.
        {adult} helped {him}. "again," {adult} said {softly}, and {hero} {contest.past}, {number} times in a row.
        -

        {side}
        -

        {middle}

        *

        on {weekday@contest}, everybody came: {a_few} neighbors, a {job} with a {instrument} and {number} {critters}.
        then came {weekday@contest}. {hero} put on {his} {color@wear2} {wear@wear2}, and {his} heart beat fast.

        "ready, steady, go!" {hero} {contest.past} as well as {he} could. {he} was ahead of everybody!
        the {instrument} gave the sign, and it began. {hero} {contest.past}, and {friend} was right beside {him}.

        *

        then {friend} {contest.mishap}. {friend.he} looked {sad}.
        but {hero} heard a cry behind {him}. {friend} {contest.mishap}!

        {hero} could see {contest.prize} already. {moment}
        "keep going!" {cried} somebody. but {hero} [stopped|turned around|shook {his} head].

        {he} went back and [helped {friend}|held out {his} {hand} to {friend}]. "come," {he} said. "we will finish
            this together."
        "are you all right?" {he} asked. "yes, but now you will lose," said {friend}. "i don't care," {said} {hero}.

        in the end, {helper} won the contest, but {helper.he} [came over|stood up] and said, "{contest.prize} belongs
            to you two."
        they came in last, but everybody clapped the loudest for them. {helper} gave them {contest.prize} for
            [friendship|a good heart].

        {joy}
        -

        now the prize spends the odd weeks with {hero} and the even weeks with {friend}.
        -
        """,
    "new_friend": """
        {one_day}, somebody moved into the {color@house} house next door. it was a [new|shy|quiet] {friend.kind} named
            {friend.name}.
        {one_day}, {hero} saw a new {friend.kind}, {friend.name}, all alone {place.spot}. {he} had never seen
            {friend.him} before.

        {friend} [did not say a word|looked at the ground|hid behind a {color@wear2} {wear@wear2}]. {friend.he} was
            shy.
        "hello, my name is {hero}," said {hero}. there was no answer, only {a_few} {critters} {doing}.

        the others played {game} and laughed. "[leave {friend.him} alone|{friend.name} can't even talk]," somebody
            said.
        {hero} asked {friend} to play {game}, but {friend} shook {friend.own} head.
        -

        {middle}

        {moment}
        -

        *

        the next day, {hero} brought {his} {color@thing} {thing} and [{thing.used}|put it down] close to {friend}.
        the next day, {hero} sat down beside {friend} with a {bag} of {tasty} {fruit@gift} and put it between them.
        so {hero} drew {place.sight}, with [{color} pencils|a {color} pencil], and pushed the picture over to
            {friend}.

        {friend} looked at it for a long time. then {friend.he} smiled, just a little. "[thank you|i'm
            {friend.name}]," {friend} {whispered}.
        {later} {friend} came closer. "i like {critters@both}," {friend.he} said[ in a tiny voice|]. "so do i!"
            {cried} {hero}.

        it turned out that they both liked {critters@both} and {treat@both}, and that both of them were afraid of
            {fear}.
        {friend} told {hero} about the {town} where {friend.he} had lived before, where there were {critters@both}
            everywhere.
        -

        *

        from then on, they met {place.in} to {place.do}. {friend} knew {number} jokes about {critters@both}.
        "do you want to {hobby} with us?" asked {hero}. {friend} did, and soon everybody wanted to play {game} with
            {friend}.

        {side}
        -

        one day, {hero} was {sad}, and it was {friend} who sat down beside {him} with {tasty} {treat@both}.
        when {hero} had a birthday, {friend} gave {him} a {color@gift} {wear@gift} with {critters@both} on it.
        -

        {joy}
        -
        """,
    "building": """
        {one_day}, {hero} wanted to build a {build}. {he} had {build.from} and a {color@tool} {tool}.
        "let us build a {build}," said {friend} {some_day}. "we only need {build.from}."

        {he} drew a plan first: a {build} with {number} {windows} and a place for {critters}.
        {hero} began [at once|right after breakfast] {place.in}, next to {place.sight}.
        -

        {side}
        -

        but it did not work: {build.fail}.
        {later} it was ready, but {build.fail}!

        {sorrow}
        -

        {middle}

        *

        "may i help?" asked {friend}. "no, i want to do it alone," {said} {hero}. but the {ordinal} time,
            {build.fail}.
        {hero} was {angry} and kicked a {bag}. "what a silly {build}!" {he} {cried}.

        then {helper} came by with a {tool}. "[many hands make light work|you need a friend for that]," {helper.he}
            said {softly}.
        {adult} looked at it. "it only needs [time|a second pair of hands|a better plan]," said {adult} {softly}.

        so {hero} called {friend}. {friend} held everything in place, and {hero} {worked}.
        {hero} went to {friend}. "will you help me?" {he} asked. "i thought you would never ask," said {friend}.

        *

        they worked [all day|until {weekday}|for {number} hours]. {friend} [sang|told stories], and {hero} {worked}.
        this time, they took more {build.from}, and {friend} had a {great} idea with a {tool}.
        -

        at last, the {build} was ready. it was {big} and {color@build}, and it stood as firm as a {animal}.
        "{hooray}!" {cried} {hero}. There it was, a real {build}, painted {color@build}.

        {joy}
        -

        they put up a sign: "{hero} and {friend.name}, come in!" and {number} {critters} moved in at once.
        that evening, they sat in front of the {color@build} {build} with {tasty} {treat} and looked at the stars.
        """,
    "sleepless": """
        {some_night}, {hero} could not sleep. {he} turned to the left, and {he} turned to the right.
        {some_night}, {adult} had put out the {light@own} long ago, but {hero} was still awake.

        {he} counted {critters@sleep}: one, two, three... but the {critters@sleep} were {doing}, and that kept {him}
            awake.
        {he} could hear everything: the [clock|wind|rain], {a_few} {critters@sleep} and {his} own heart.
        -

        so {he} got up and {move} to {adult}. "i can't sleep," {he} {said}. "my bed is full of {critters@sleep}."
        "{adult.name}!" {he} {cried}. "my head is full of {critters@sleep}!"

        {adult} [rubbed {adult.own} eyes|yawned]. "then let us ask the others how they do it," {adult} said {softly}.
        {adult} made {warm_drink} with honey and told {him} a story about a {trait@sleep} {animal@sleep}.

        {middle}

        *

        they went to the window. {outside} "they sleep {sleeping}," {adult} whispered, and pointed at {critters}.
        in the story, the {animal@sleep} could not sleep, either. it asked the {critters}, who slept {sleeping}.

        "i can't do that," {said} {hero} and tried to sleep {sleeping}. {he} fell {nearby} and laughed.
        then it asked the {critters}, who slept {sleeping}. "how silly," said {hero}, but {his} eyes were small.

        "and where does the [moon|wind|sun] sleep?" asked {hero}. "behind {place}," said {adult} {softly}.
        "and what do you do, {adult.name}?" asked {hero}. "i think of {place} and of {place.sight}," said {adult}.
        -

        *

        {hero} closed {his} eyes and thought of {place}. {he} saw {place.sight}. {he} smelled {smell}.
        {hero} held {his} {color@toy} {soft_toy} tightly. {he} thought of {place} and of {number} sleeping
            {critters@sleep}.

        {his} breath grew slow and slower. when {adult} asked, "are you asleep?" there was no answer.
        before {he} could count to {number}, {he} was asleep.

        {he} dreamed of {number} {critters@sleep} who [rode on|danced with] a {animal} to {place}.
        in the morning, the sun tickled {his} nose. "i found out how it works," {said} {hero}. "you only have to stop
            trying."
        -
        """,
    "sick_friend": """
        {one_day}, {friend} did not come to play {game}. "{friend.name} has {ill}," said {adult}.
        {one_day}, {hero} knocked at the door of {friend}, but nobody came out. {friend} lay in bed with {ill}.

        {sorrow}
        -

        "what helps against {ill}?" {he} asked {helper}. "{ill.like} and a good friend," said {helper} {softly}.
        {hero} wanted to help. {he} remembered that {ill.like} had helped {him} once.

        so {he} packed a {color@bag} {bag@own2}: {ill.like}, {tasty} {treat@gift} and a {treasure@gift}.
        {he} went to {place} and looked for a present. {place.spot}, {he} found a {treasure@gift}. {side}

        {middle}

        *

        on the way to {friend}, {he} met {trait} {critters} who wanted the {treat@gift}. "no, it is for
            {friend.name}," {said} {hero}.
        it was a long way, and it began to rain. {hero} put {his} {color@wear2} {cloth} over {his} present.
        the road was muddy, and {he} slipped. {his} present fell down, but [nothing was broken|the {treasure@gift} was
            safe].
        -

        {friend} was pale and {tired}. "don't come too close," {friend} said. So {hero} stayed at the window and made
            faces.
        "who is there?" asked {friend} in a weak voice. "a {job}!" {said} {hero} in a deep voice. {friend} had to
            laugh.

        {hero} gave {friend} the {treasure@gift} and {ill.like}. then {he} read a story about a {trait} {animal}.
        {hero} put the {treasure@gift} next to the pillow. "it will [keep you company|bring you luck]," {he} said
            {softly}.

        *

        every {weekday} and every {weekday}, {he} came back with [news|jokes|a new picture] about {critters}.
        {number} days later, {friend} sat up and ate {number} spoons of soup. {hero} [cheered|clapped].
        -

        and then, {one_fine_day}, there was a knock at the door. {friend} stood outside with the {treasure@gift}. "i
            am well again!" {friend} {cried}.
        soon {friend} was well again, and they could play {game} {place.in}. the {treasure@gift} always came along.

        {joy}
        -
        """,
    "found_thing": """
        {one_day}, on the way to {place}, {hero} found a {color@found} {purse@found} {place.spot}. inside was a
            {treasure@found}.
        {one_day}, {hero} went to {place} to {place.do}. {place.spot}, there was a {color@found} {purse@found} with a
            {treasure@found} in it.

        {hero} had never seen such a {great} {treasure@found}. "[finders keepers|it's mine now]!" said {friend}.
        "can i keep it?" {he} asked {himself}. the {treasure@found} [was|seemed|looked] {great} in {his} {hand}.
        -

        {moment}
        -

        "somebody is looking for it," {said} {hero}. "[i would be {sad}, too|it is not ours]."
        {hero} thought of the day when {he} had lost {his} own {color@thing} {thing}. how {sad} {he} had been!

        {middle}

        *

        so {he} asked everybody. "is this yours?" The {job} said no, and the {job} said no, too.
        {hero} wrote {number} notes: "{color@found} {purse@found} found {place.in}." {friend} hung them up on the
            {tree} trees.
        -

        {side}
        -

        they went from house to house, but one {purse@found} was too {small}, and another was not {color@found}.
        "maybe nobody wants it," said {friend}. but {hero} did not give up.
        -

        *

        then {he} saw {helper} {nearby}, with tears in {helper.own} eyes. "i have lost my {purse@found}," said
            {helper}.
        on {weekday}, {helper} stood at the door. "{oh_no}, i am too late," {helper.he} sighed. "i have lost a
            {purse@found}."

        "what does it look like?" asked {hero}. "it is {color@found}, and in it is a {treasure@found} from my
            [grandmother|best friend|brother]."
        {hero} pulled out the {color@found} {purse@found}. {helper} was {surprised} and held the {treasure@found} up
            to the light.

        "you are an honest {kind}," said {helper} {softly} and gave {him} {tasty} {treat}.
        as a thank you, {helper} taught {hero} to {hobby} and gave {him} a {treasure@gift}.

        {joy}
        -
        """,
    "wish": """
        {one_day}, {hero} went to {place} to {place.do}. {side}
        {one_day}, {hero} was bored. {he} did not want to {hobby}, and {he} did not want to play {game}.

        all at once, a {sprite} jumped out of {sprite.from}. it wore a {color@wear2} {wear@wear2} and was no bigger
            than a {treasure}.
        {nearby}, something glittered. it was a {sprite} with a {color@wear2} {wear@wear2}, and it came from
            {sprite.from}.

        "you have [woken|freed] me," said the {sprite}. "so you may have one wish."
        "don't step on me!" {cried} the {sprite}. "if you are careful, i will give you a wish."

        {moment}
        -

        "i wish {wish}," {said} {hero}. The {sprite} clapped {number} times, and it was done.
        {hero} did not think long and wished {wish}. there was a puff of {color} smoke.

        {joy}
        -

        *

        at first, it was {great}. {hero} [showed {friend}|laughed and sang|felt like a {pretend}].
        "look at me!" {he} {cried} to {friend}, and {friend} was {surprised}.
        -
        -

        {middle}

        but soon {wish.bad}.
        but after {number} hours, {he} found out what {he} had done: {wish.bad}.

        {sorrow}
        -

        *

        {hero} {move} back to the {sprite}. "please take it back," {he} {said}.
        {he} looked for {sprite.from} {nearby} and {nearby}. "{sprite}, where are you?" {he} {cried}. "please help
            me!"

        the {sprite} smiled. "what have you learned?" it asked. "{wish.lesson}," {said} {hero}.
        "are you sure?" asked the {sprite} and tugged at its {color@wear2} {wear@wear2}. "yes," {said} {hero}.
            "{wish.lesson}."

        the {sprite} clapped its hands, and everything was as before. only a {treasure@gift} lay on the ground.
        then there was a flash, and the {sprite} was gone. all that was left was {sprite.from} and a {treasure@gift}.
        -

        {he} went home to {adult} and {hugged} {adult.him}. "{wish.lesson}," {he} whispered.
        {he} told {friend} everything, but {friend} only believed it when {he} showed {friend.him} the {treasure} that
            the {sprite} had left.
        """,
    "tidying": """
        {hero} never put anything away. in {his} {messy}, {messy.trouble}.
        {adult} often said, "{hero}, look at your {messy}!" and really, {messy.trouble}.

        {one_day}, {he} wanted to play with {his} {color@thing} {thing}, but it was nowhere to be found.
        {one_day}, {friend} came and said, "bring your {color@thing} {thing}! we want to go to {place} and
            {place.do}."

        {he} looked under the {soft} and behind the {lamp}, but all {he} found was a {treasure} and {number} old
            {fruit}.
        {hero} pulled at a {wear}, and a mountain of things fell on {his} head: a {tool}, a {wear} and a {instrument}.
        -

        {sorrow}
        -

        {middle}

        *

        "i have an idea," said {adult} {softly}. "we will play a game. whoever puts away the most things wins."
        "let us pretend that we are {pretenders}," said {friend}. "the {messy} is our ship, and the storm is over."
        "every thing has a home, just like {critters}," said {adult}. "help it to get there."

        first they put the {cloth} with the {cloth}. then they put the {treasure} next to the {treasure}.
        {hero} put all the {color} things on the left and all the {color} things on the right. {friend} swept the
            floor.
        -

        *

        under the very last pile was the {color@thing} {thing}!
        {later} {hero} {cried}, "{hooray}!" In {his} {hand} was the {color@thing} {thing}.

        {joy}
        -

        "and look how big your {messy} is!" said {adult}. there was room to [dance|play {game}|do a somersault].
        {hero} gave the {thing} a place of its own, between the {instrument} and the {lamp}.
        -

        now {he} could take the {color@thing} {thing} to {place} and {thing.use} with {friend}, and afterwards {he}
            put it back in its place.
        {hero} {thing.used} until {number} o'clock, and in the evening, {he} knew just where the {thing} belonged.
        """,
    "saving": """
        {one_day}, {hero} saw a {color@thing} {thing} in a shop window. it was {great}!
        {one_day}, a {job} at the market showed {him} a {color@thing} {thing}. "{hooray}!" {said} {hero}. "i want
            that."

        "how much is it?" {he} asked. "{price}," said {the_seller}. {hero} only had [two buttons|a {treasure}].
        it cost {price}, but there was nothing in {his} {bag} but a {treasure}.

        {sorrow}
        -

        "then you have to earn it," said {adult} {softly}. "you could help {helper.name}."
        {friend} had an idea. "my neighbors need somebody for {price.earn}," {friend} said.

        so {hero} began {price.earn} for {helper}. it was hard, but the {color@bag} {bag@own2} under {his} bed grew
            heavier.
        every {weekday}, {he} earned a little by {price.earn}. {he} kept it in a {color@bag} {bag@own2}.

        {middle}

        *

        on {weekday}, {friend} bought {tasty} {treat}. {hero} wanted some, too, but {he} thought of the {thing}.

        the {color@bag} {bag@own2} grew heavier and heavier. {he} counted it every night.
        after {number} weeks, {hero} had {price}, and {he} {move} to the shop.
        -

        *

        but then {he} saw {friend}, who was {sad}. {friend.whose} [roof|bike|window] was broken, and there was no
            money to fix it.
        but on the way, {he} met {friend}. {friend} was crying, because {friend.own} [cat|rabbit|goldfish] was ill and
            needed a doctor.

        {moment}
        -

        {he} [gave|handed] the {color@bag} {bag@own2} to {friend}. "you need it more than i do," {he} said {softly}.
        "take it," {said} {hero}. {friend} could not believe it and hugged {him} {number} times.

        {adult} had seen everything. on {his} birthday, {hero} unpacked a {big} box, and in it was the {color@thing}
            {thing}!
        when {helper} heard about it, {helper.he} smiled. the next morning, the {color@thing} {thing} stood at {his}
            door.

        {joy}
        -

        {hero} and {friend} {thing.used} all day long, and {a_few} {critters} watched.
        -
        """,
    "waiting": """
        {some_day}, {hero} was waiting for {wait}. {he} was not good at waiting.
        {some_day}, {adult} told {hero} to wait for {wait}. "how long will it take?" {he} asked. {adult} only smiled.

        {he} asked {adult} {number} times, "is it time now?" "not yet," said {adult} each time.
        {hero} looked at the clock. the hand did not seem to move at all.

        "waiting is [boring|hard|silly]!" {cried} {hero}. {He} was {angry} and kicked a {bag}.
        {hero} sighed so loudly that {a_few} {critters} {nearby} stopped {doing}.
        -

        "come, wait with me," said {friend}, who was {doing_one} {nearby}. "i'm waiting for {wait}, too."
        {helper} was sitting {nearby} and peeling {fruit}. "the trick is not to look," said {helper} {softly}.

        {middle}

        *

        so {he} decided to {hobby} in the meantime. after that, {he} [ate {fruit}|played {game}|found a {treasure}].
        they played {game} and made a {color@made} {wear@made} out of {soft}. {side}
        first they sang a song about a {trait} {animal}. then they told each other about {critters}.

        {hero} learned to {skill} a little, and {he} even helped {adult} with the {tool}.
        {later} {he} had quite forgotten that {he} was waiting.
        -

        *

        and then it happened: {wait.over}!
        "{hero}, come quickly!" {cried} {adult}. {Wait.over}.

        {hero} held {his} breath. {wait.grand}.
        {he} stood there with an open mouth. a little later, {wait.grand}.

        {joy}
        -

        "it was worth waiting for," {he} told {adult}. "and what do we wait for now?"
        {he} told {friend} about it, and {friend} wanted to wait for something, too.
        -
        """,
}

# In these plots the friend needs no introduction: the plot itself gives one.
FRIEND_KNOWN = ("new_friend", "quarrel")

MORALS: dict[str, str] = {
    "lost_thing": """
        {hero} learned to look after the things {he} loved.
        things get lost, but [kind people|good neighbors] help to find them.
        """,
    "sharing": """
        [good things taste|everything tastes] twice as good when you share it.
        {hero} learned that sharing makes [everything taste better|two people happy at once].
        """,
    "fear": """
        things in the dark are often smaller than they sound.
        {hero} learned that you can be brave and {scared} at the same time.
        """,
    "creature": """
        {hero} learned that loving somebody can mean letting go.
        a small [kindness|help] is never forgotten, not even by a {creature}.
        """,
    "baking": """
        even a mistake can [taste good|become something sweet] in the end.
        {hero} learned that {dish} needs {patience} most of all.
        """,
    "weather": """
        {hero} learned that there is no bad weather when you have [good company|a good idea].
        after every {weather_word}, something new begins.
        """,
    "skill": """
        {hero} learned that [trying again|practice] is the most important thing.
        nobody can do everything at once, but everybody can begin.
        """,
    "broken_toy": """
        what is broken can often be mended, with {patience} and a friend.
        {hero} learned to be careful, and that friends are worth more than any {broken}.
        """,
    "quarrel": """
        a friend is worth more than a {thing}.
        {hero} learned that "sorry" is a small word that can open big doors.
        """,
    "surprise": """
        the best presents are made with {patience} and love.
        {hero} learned that giving is as much fun as getting.
        """,
    "journey": """
        {hero} learned that the way is as important as the goal.
        with {patience} and good company, you can get as far as {journey}.
        """,
    "promise": """
        {hero} learned that a promise must be kept.
        first keep your word, then go and play.
        """,
    "mistake": """
        {hero} learned that the truth is lighter to carry than a lie.
        everybody makes mistakes, but it takes courage to say so.
        """,
    "plant": """
        {hero} learned that good things need time, and a {plant} needs {patience}.
        from something very small, something {great} can grow.
        """,
    "contest": """
        {hero} learned that winning is not everything.
        a friend is a better prize than {contest.prize}.
        """,
    "new_friend": """
        sometimes it takes only {one_thing} to make a friend.
        {hero} learned that shy people often have the most to tell.
        """,
    "building": """
        {hero} learned that together you can build more than alone.
        every {build} begins with the first piece, and with a friend.
        """,
    "sleepless": """
        and now it is your turn to sleep. good night!
        """,
    "sick_friend": """
        {hero} learned that the best medicine is a friend.
        a visit can be worth more than {ill.like}.
        """,
    "found_thing": """
        {hero} learned that giving back feels better than keeping.
        what you find belongs to the one who lost it.
        """,
    "wish": """
        be careful what you wish for.
        {hero} learned to be happy with what {he} had.
        """,
    "tidying": """
        {hero} learned that tidy things are easy to find.
        a place for everything, and everything in its place.
        """,
    "saving": """
        {hero} learned that a friend is worth more than {price}.
        what you give away with love comes back in the end.
        """,
    "waiting": """
        {hero} learned that time flies when you stop counting.
        good things come to those who can wait.
        """,
}
