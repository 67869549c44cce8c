"""What fake-gcs-server does not know of an object: that it was composed, or one version deleted for good.

In a bucket that keeps versions (in memory alone) the server makes the live object noncurrent at every delete,
and can't delete a noncurrent one. Cloud Storage deletes just the generation that a request names, for good
(cloud.google.com/storage/docs/json_api/v1/objects/delete, of 2026-11-30), and has no MD5 of a composite
object but a count of its components (cloud.google.com/storage/docs/composite-objects, of 2026-11-30).
"""

from collections.abc import Mapping
from typing import Any

Key = tuple[str, str, str]


class Versions:
    """Keeps what was composed and what was deleted, and corrects what the server says."""

    def __init__(self) -> None:
        self._deleted: set[Key] = set()
        self._components: dict[Key, int] = {}

    def delete(self, resource: Mapping[str, Any]) -> None:
        """Show this version no more."""
        self._deleted.add(_key(resource))

    def compose(self, resource: Mapping[str, Any], components: int) -> None:
        """Show this version as what it is."""
        self._components[_key(resource)] = components

    def corrected(self, resource: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return an object resource as Cloud Storage has it; None where it was deleted."""
        if _key(resource) in self._deleted:
            return None
        components = self._components.get(_key(resource))
        if components is None:
            return dict(resource)
        return {name: each for name, each in resource.items() if name != "md5Hash"} | {
            "componentCount": components
        }

    def answer(self, document: Any) -> Any:
        """Return an answer of the JSON API, an object or a listing, corrected."""
        if isinstance(document, dict) and document.get("kind") == "storage#object":
            return self.corrected(document)
        if isinstance(document, dict) and "items" in document:
            return document | {"items": [each for each in map(self.corrected, document["items"]) if each]}
        return document


def _key(resource: Mapping[str, Any]) -> Key:
    """Bucket, name and generation: the server tells them all, whatever `fields` asks for."""
    return resource["bucket"], resource["name"], resource["generation"]
