"""x"""

from mer.core.actor import Guest
from mer.faces.face import Face


async def lend(face: Face, guest: Guest) -> None:
    """Speak."""
