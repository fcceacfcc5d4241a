"""Fingerprints as words, for comparison by telephone; an idea of P. Juola and P. Zimmermann (PGP word list, 1995).

One word stands for one byte. The list is our own: any two words differ in their first three letters and in at least two
letters in all, so that a word that was misheard is not another one.
"""

from salus.common.canonical import hash_parts

_LIST = """
acorn admiral agenda alarm alpine anchor antelope apple arcade armour artist atlas autumn balcony bamboo
basket bathtub beacon bedroom bishop boat bonfire bottle branch bridge bronze bucket buffalo butter cabin
cactus camera carpet castle cedar ceiling chapel cherry cinema circle clover cobra coffee compass copper
cotton cradle crystal cupboard curtain cyclone dancer debate delta dentist desert diamond dinner doctor
dolphin donkey dragon drummer dusty eagle earring echo eclipse eggshell elephant emerald engine envelope
escape evening fabric fiddle fisher flamingo flute football forest fountain freezer frozen funnel galaxy
garden gazelle gentle giraffe glacier goblin golden gorilla granite guitar gymnast hammer harbour helmet hero
hickory history holiday hotel husband iceberg igloo impulse indigo insect island ivory jelly jigsaw jockey
journey jungle kayak kennel kidney kingdom kitchen ladder lagoon lantern lavender leather lemon leopard
library lighthouse lizard lobster locomotive lumber magnet mailbox mandolin marble mattress meadow mermaid
midnight mineral mirror mother muffin mushroom napkin nature needle nephew nickel nomad notebook nutmeg oasis
object octopus office olive omelette onion opera orange orchard ostrich oyster paddle palace panther parrot
pebble pelican penguin picnic pilot pistachio planet polar pony porridge potato prairie puppet pyramid quarry
queen quiver rabbit radio rainbow ransom raven recipe reindeer ribbon robot ruby salmon sandal satellite
scissors seagull senator shadow shelter silver skeleton slipper snowman soldier sparrow spider squirrel
station strawberry sugar sunset swallow tadpole tailor tango temple theatre thunder tiger torch tractor
trumpet tulip turtle twilight umbrella unicorn upstairs vacuum valley vanilla village violin volcano voyage
waffle walnut waterfall whistle widow wolf wonder yacht yellow yogurt zigzag
"""
WORDS = tuple(_LIST.split())
COMPARED_BYTES = 16  # 128 bits: nobody can make a second key with the same words


def fingerprint_bytes(public_key: bytes) -> bytes:
    """Return the 16 bytes by which two people compare a key, as words or as digits."""
    return hash_parts("salus/fingerprint", public_key)[:COMPARED_BYTES]


def fingerprint_words(public_key: bytes) -> str:
    """Return a key's fingerprint as 16 words in four groups; the same 128 bits as the digits of `fingerprint`."""
    words = [WORDS[byte] for byte in fingerprint_bytes(public_key)]
    return " / ".join(" ".join(words[i : i + 4]) for i in range(0, COMPARED_BYTES, 4))
