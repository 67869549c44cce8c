"""Search in scripts without spaces between words: any part of a sentence finds it."""

import re
import unicodedata

import pytest

from dropcap.database import search
from dropcap.database.transactions import Database
from dropcap.gallery import wall
from dropcap.gallery.wall import Filters
from tests.gallery.test_search import add, corrected, delete, found, vocabulary

SENTENCES = {
    "Japanese": "公園で茶色の犬がボールを追いかけて走っています。人々が佐々木さんのTシャツを見る。",
    "simplified Chinese": "一只棕色的狗在公园的草地上追着红色的球跑\uff0c2026年摄于北京。",
    "traditional Chinese": "一隻棕色的狗在公園的草地上追著紅色的球跑\uff0c攝於臺北車站。",
    "Thai": "สุนัขสีน้ำตาลกำลังวิ่งไล่ลูกบอลสีแดงบนสนามหญ้าในสวนสาธารณะ",
    "Lao": "ໝາສີນ້ຳຕານກຳລັງແລ່ນຢູ່ໃນສວນສາທາລະນະ",
    "Khmer": "ឆ្កែពណ៌ត្នោតកំពុងរត់នៅក្នុងសួនច្បារ",
    "Burmese": "အညိုရောင်ခွေးတစ်ကောင်သည်ပန်းခြံထဲတွင်ပြေးနေသည်",
}
WORDS = {
    "Japanese": (
        *("犬", "公園", "茶色", "ボール", "走って", "追いかけて"),
        *("人々", "佐々木", "Tシャツ", "シャツ", "ます", "見る"),
    ),
    "simplified Chinese": ("狗", "公园", "棕色", "草地", "红色的球", "北京", "2026年", "2026", "一只"),
    "traditional Chinese": ("狗", "公園", "紅色", "臺北", "車站", "追著", "跑"),
    "Thai": ("สุนัข", "วิ่ง", "ลูกบอล", "สีแดง", "สนามหญ้า", "สวนสาธารณะ", "สีน้ำตาล"),
    "Lao": ("ໝາ", "ສວນ", "ສາທາລະນະ"),
    "Khmer": ("ឆ្កែ", "រត់", "សួនច្បារ"),
    "Burmese": ("ခွေး", "ပန်းခြံ", "ပြေး"),
}
OTHERS = ("猫", "犬公", "園公", "走る", "แมว", "车站猫", "ボーリング", "รถไฟฟ้า")


def test_a_word_inside_a_sentence_without_spaces_is_found(database: Database) -> None:
    ids = {script: add(database, "a dog", description=text) for script, text in SENTENCES.items()}
    for script, words in WORDS.items():
        for word in words:
            assert ids[script] in found(database, word), (script, word)
    for word in OTHERS:
        assert found(database, word) == [], word
    assert found(database, "公園 棕色") == [ids["traditional Chinese"]]
    assert found(database, "犬 dog") == [ids["Japanese"]]
    assert corrected(database, "猫") == {}
    assert set(vocabulary(database)) == {"a", "dog", "t"}  # and "2026", which is a number


@pytest.mark.parametrize("script", SENTENCES)
def test_any_part_of_a_sentence_matches_and_reordered_letters_do_not(database: Database, script: str) -> None:
    text = re.split("[。\uff0c]", SENTENCES[script])[0]
    wanted, letters = add(database, text=text), add(database, text=" ".join(text), day=-1)
    for start in range(0, len(text) - 7, 3):
        assert found(database, text[start]) == [wanted, letters]
        for size in (2, 3, 7):
            assert found(database, text[start : start + size]) == [wanted], text[start : start + size]
    assert found(database, text[:4][::-1]) == []


def test_only_adjacent_letters_match(database: Database) -> None:
    wanted = add(database, "大阪城公園")
    add(database, "大阪の城と公園")
    add(database, "大阪、城公園")
    assert found(database, "大阪城公園") == found(database, "阪城") == [wanted]


def test_different_forms_of_a_letter_match(database: Database) -> None:
    wanted = add(database, "ガラスのパン屋")
    for words in ("ガラス", "ｶﾞﾗｽ", unicodedata.normalize("NFD", "ガラス"), "パン屋"):
        assert found(database, words) == [wanted], words
    assert found(database, "カラス") == []


def test_scripts_with_spaces_are_searched_as_before(database: Database) -> None:
    korean = add(database, "공원에서 갈색 강아지가 빨간 공을 쫓아 달리고 있습니다")
    greek = add(database, "Ένας σκύλος τρέχει")
    arabic = add(database, "كلب بني يركض في الحديقة")
    expected = {"강아지": korean, "갈색": korean, "공원": korean, "σκυλ": greek, "يركض": arabic}
    for words, id in expected.items():
        assert found(database, words) == [id], words
    assert corrected(database, "강아지기") == {"강아지기": ("강아지가",)}


def test_a_long_text_without_spaces_is_indexed_within_bounds(database: Database) -> None:
    letters = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(300_000))
    huge = add(database, "犬", text=letters)
    assert found(database, "犬") == found(database, letters[5000:5020]) == [huge]
    assert len(found(database, letters[:200])) == 1
    assert wall.page(database, "ana", Filters()).unindexed == 0


def test_a_deleted_text_without_spaces_is_no_longer_found(database: Database) -> None:
    gone, kept = add(database, "公園で犬が走る"), add(database, "公園で猫が眠る", day=-1)
    assert found(database, "公園") == [gone, kept]
    delete(database, gone)
    assert (found(database, "公園"), found(database, "犬")) == ([kept], [])


def test_an_index_of_an_older_version_is_rebuilt_in_batches(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("pie", "tree", "cake")
    ids = [add(database, f"公園で犬が走る apple {name}", day=-day) for day, name in enumerate(names)]
    assert found(database, "apple") == ids
    before = vocabulary(database)
    # As the earlier version left it: the run is one word, and the index has no version.
    database.query(
        "UPDATE documents SET document = to_tsvector('simple', '公園で犬が走る apple') "
        "|| array_to_tsvector(ARRAY['@ana']) RETURNING 1"
    )
    database.query("UPDATE vocabulary SET pictures = 0 WHERE word = '' RETURNING 1")
    monkeypatch.setattr(search, "BATCH", 2)
    monkeypatch.setattr(wall, "SEARCH_S", 0.0)
    left = [wall.page(database, "ana", Filters(words="犬")).unindexed for _ in range(4)]
    assert left[-1] == 0
    assert found(database, "犬") == found(database, "apple") == ids
    assert vocabulary(database) == before
