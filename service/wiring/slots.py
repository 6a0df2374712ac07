"""Puts together what one worker needs for its slots."""

from dataclasses import dataclass
from pathlib import Path

from service.api.shadow import Shadow
from service.api.state import ServiceState
from service.metrics import Metrics
from service.settings import Settings
from service.wiring.assembly import CLOCK, admission_of, engine_of
from service.wiring.changing import SlotChanger
from service.wiring.exchange import Exchange
from service.wiring.follower import Follower
from service.wiring.keeper import SlotKeeper
from service.wiring.slot_file import slot_file
from service.wiring.stores import Stores
from service.wiring.unit import Shared


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of one worker.

    Attributes:
        shared: what their bundles share.
        keeper: holds the bundles.
        follower: keeps them as they should be.
        changer: changes them, in all workers.
        shadow: watches answers.

    """

    shared: Shared
    keeper: SlotKeeper
    follower: Follower
    changer: SlotChanger
    shadow: Shadow

    async def close(self) -> None:
        """Close everything; requests have ended."""
        await self.shadow.close()
        await self.follower.close()
        self.shared.engine.close()
        await self.keeper.close()


def slots_of(settings: Settings, metrics: Metrics, service: ServiceState, exchange: Path) -> Slots:
    """Return the slots of a worker; nothing is started, nor opened.

    Args:
        settings: of the service; with a bundle's path.
        metrics: told of everything.
        service: what the routes see.
        exchange: the folder in which the workers agree.

    """
    models = settings.models
    assert settings.bundle.path is not None, "serve checks it"
    stores = Stores(settings.redis, metrics, CLOCK)
    shared = Shared(settings, metrics, stores, engine_of(settings, metrics), admission_of(settings))
    keeper = SlotKeeper(shared, service)
    file = slot_file(settings, exchange)
    between = Exchange(exchange)
    changer = SlotChanger(
        service,
        keeper=keeper,
        file=file,
        exchange=between,
        root=models.bundle_root or settings.bundle.path.resolve().parent,
        timeout_s=models.switch_timeout_s,
        clock=CLOCK,
    )
    shadow = Shadow(service, metrics, load=models.shadow_load, clock=CLOCK)
    return Slots(shared, keeper, Follower(keeper, file, between), changer, shadow)
