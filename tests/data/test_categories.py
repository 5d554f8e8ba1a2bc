"""The 55 names, and what a user may type for them."""

import pytest

from pcdiff.data.categories import NAME_TO_SYNSET, SYNSET_TO_NAME, parse_categories
from pcdiff.errors import InputError


def test_there_are_55_distinct_categories():
    assert len(NAME_TO_SYNSET) == len(SYNSET_TO_NAME) == 55
    assert all(len(synset) == 8 and synset.isdigit() for synset in SYNSET_TO_NAME)
    assert list(NAME_TO_SYNSET.values()) == sorted(NAME_TO_SYNSET.values())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("airplane", ("airplane",)),
        ("chair,airplane", ("airplane", "chair")),
        (" Chair , AIRPLANE,,", ("airplane", "chair")),
        ("03001627", ("chair",)),
        (["car", "chair,02691156", "car"], ("airplane", "car", "chair")),
        (("can", "tin_can"), ("can", "tin_can")),
    ],
)
def test_names_ids_case_and_repeats(text, names):
    assert parse_categories(text) == names


def test_all_means_every_category():
    assert parse_categories("all") == tuple(NAME_TO_SYNSET) == parse_categories(["chair", "ALL"])


def test_unknown_name_suggests_the_closest_and_lists_the_known():
    with pytest.raises(
        InputError, match=r"unknown category 'airplan'; did you mean airplane\?.*known: all.*washer"
    ):
        parse_categories("airplan")


@pytest.mark.parametrize("nothing", ["", " , ", [], ["", " "]])
def test_nothing_is_refused(nothing):
    with pytest.raises(InputError, match="at least one category"):
        parse_categories(nothing)


def test_other_types_are_refused():
    with pytest.raises(InputError, match="names or synset ids, got 3001627"):
        parse_categories([3001627])
