"""Real servers for the tests, and an environment that every test leaves as it found it."""

import gc
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import certifi
import hypothesis
import pytest
from pg8000.native import Connection

from dropcap import logs
from dropcap.database.connection import connect
from dropcap.database.transactions import Database
from dropcap.settings import Settings
from infra.local.postgres import SEED, Postgres
from infra.local.storage.server import Storage
from tests.memory.limit import NoLimit, kernel_limit
from tests.support.app import NO_GCLOUD, App, app
from tests.support.browser.browser import chromium, guest, site, visitor  # noqa: F401  fixtures
from tests.support.children import QUICK
from tests.support.cloud.control_plane import ControlPlane
from tests.support.cloud.deployment import FIRST, Deployment, load, once, save
from tests.support.cloud.replayed_gcloud import replayed
from tests.support.cloud.warm_gcloud import WarmGcloud
from tests.support.database.schemas import outside, sound  # noqa: F401  fixtures
from tests.support.describing import settings, stand_in  # noqa: F401  fixtures
from tests.support.events import functions, watched_storage  # noqa: F401  fixtures
from tests.support.gemini_faults import FaultyGemini
from tests.support.issuer import Issuer
from tests.support.models import no_demo as no_demonstration
from tests.support.models.checkpoints import pytorch  # noqa: F401  a fixture
from tests.support.models.installing import downloads, old  # noqa: F401  fixtures

MODULES = 50  # imported by one test: worth a look at all objects
ROOM = 2**30  # bytes: a server of a test worker takes less than 200 MB
# What the tests start: 0.3 s less each (sitecustomize.py), and nobody compiles what another has compiled.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(QUICK), os.environ.get("PYTHONPATH"))))
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Tests run side by side, and PyTorch's threads spin while they wait for each other: with one for each core,
# model_export/test_bits.py took 50 s of CPU instead of 13 s.
os.environ.setdefault("OMP_NUM_THREADS", "1")
for variable in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # `make test`: a make in a test is not a part of it
    os.environ.pop(variable, None)
logs.configure()  # as the functions do at their start
# No limit of time, which a busy machine exceeds, and no files.
hypothesis.settings.register_profile(
    "busy", deadline=None, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt everything that the tests import from later garbage collections.

    With PyTorch that is 0.3 s for each, and the product collects for every picture above the warning level.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def environment_restored() -> Iterator[None]:
    """Restore the environment after each test.

    Exempts modules that the test imported from later garbage collections.
    """
    before, modules = dict(os.environ), len(sys.modules)
    logs.once.cache_clear()  # another test of this process may have logged the line
    yield
    os.environ.clear()
    os.environ.update(before)
    if len(sys.modules) > modules + MODULES:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def postgres_seed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let each new PostgreSQL copy the data folder that the first test worker initialized."""
    base = tmp_path_factory.getbasetemp()
    os.environ[SEED] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "postgres")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Start one PostgreSQL for each test worker; its data need not survive a power failure."""
    with tempfile.TemporaryDirectory(prefix="dropcap-postgres-", dir=_memory()) as folder:
        values = ("fsync=off", "max_connections=150", f"unix_socket_directories={folder}")
        options = tuple(word for value in values for word in ("-c", value))
        with Postgres(Path(folder), options=options) as server:
            yield server


def _memory() -> str | None:
    """Return a folder in memory if there is room: copying a database there takes a quarter of the CPU."""
    shared = Path("/dev/shm")  # noqa: S108  the folder in it has a name of its own
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > ROOM else None


@pytest.fixture(scope="session")
def template(postgres: Postgres) -> str:
    """Return the name of a database with the schema and no rows; tests work on copies."""
    with closing(Database(Settings(database_url=postgres.database("template")))) as database:
        database.prepare()
    return "template"


@pytest.fixture
def empty_database(postgres: Postgres, administrator: Connection) -> Iterator[str]:
    """Return the URL of a new database without tables."""
    with _new_database(postgres, administrator, "template1") as url:
        yield url


@pytest.fixture
def database_url(postgres: Postgres, administrator: Connection, template: str) -> Iterator[str]:
    """Return the URL of a new database with the schema."""
    with _new_database(postgres, administrator, template) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Return the product's own client of a new database with the schema."""
    with closing(Database(Settings(database_url=database_url))) as client:
        yield client


@pytest.fixture(scope="session")
def administrator(postgres: Postgres) -> Iterator[Connection]:
    """Return a connection that creates databases."""
    with closing(connect(postgres.url)) as connection:
        yield connection


@contextmanager
def _new_database(postgres: Postgres, administrator: Connection, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    # A copy of the files, and not of each page by the log, which takes twice the time.
    administrator.run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    try:
        yield f"{postgres.url.rpartition('/')[0]}/{name}"
    finally:
        administrator.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def storage_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start one storage server for each test worker."""
    with Storage(None, tmp_path_factory.mktemp("storage")) as server:
        yield server.url


@pytest.fixture(scope="session")
def gemini_url() -> Iterator[str]:
    """Start one stand-in for Gemini for each test worker."""
    with FaultyGemini() as server:
        yield server.url


@pytest.fixture(scope="session")
def one_issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    """Start one issuer of ID tokens for each test worker."""
    with Issuer(tmp_path_factory.mktemp("issuer")) as server:
        yield server


@pytest.fixture
def issuer(one_issuer: Issuer) -> Iterator[Issuer]:
    """Return the issuer; its state is restored after the test."""
    before = dict(vars(one_issuer))
    one_issuer.key_requests = 0
    yield one_issuer
    vars(one_issuer).update(before)


@pytest.fixture(scope="session")
def warm_gcloud() -> Iterator[str]:
    """Return a folder for PATH with a gcloud that starts quickly, one for each test worker."""
    if NO_GCLOUD:
        pytest.skip("gcloud is not installed")
    with tempfile.TemporaryDirectory(prefix="dropcap-gcloud-") as folder, WarmGcloud(folder) as warm:
        yield warm.folder  # of a short name: it holds a socket


@pytest.fixture
def plane(warm_gcloud: str, tmp_path: Path) -> Iterator[ControlPlane]:
    """Return a new project of Google Cloud's stand-in; its `environment` makes gcloud use it."""
    with ControlPlane(tmp_path / "plane") as plane, replayed(plane, warm_gcloud):
        yield plane
        assert not plane.faults, "\n".join(sorted(set(plane.faults)))


@pytest.fixture(scope="session")
def deployed_state(warm_gcloud: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the saved state after a first deployment as in docs/deploy.md, shared by all test workers."""
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "deployed.pickle"
    if once(made):
        folder = tmp_path_factory.mktemp("first")
        try:
            with ControlPlane(folder / "plane") as plane, replayed(plane, warm_gcloud):
                deployment = Deployment(folder, plane)
                shown = {command: deployment.typed(command, "y") for command in FIRST}
                assert "make verify" in shown[FIRST[-1]], shown
                assert not plane.faults, "\n".join(sorted(set(plane.faults)))
                bodies = [repr(each.body) for each in plane.writes]
                kept = (deployment.root / "settings.mk").read_text()
                plane.resources["recorded"] = {"shown": shown, "bodies": bodies, "settings.mk": kept}
            save(plane, made)
        finally:
            made.with_suffix(".taken").rmdir()
    return made


@pytest.fixture
def there(deployed_state: Path, plane: ControlPlane, tmp_path: Path) -> Deployment:
    """Return a project in which this code is deployed."""
    load(plane, deployed_state)
    return Deployment(tmp_path, plane)


@pytest.fixture(scope="session")
def memory_limit() -> None:
    """Skip the test if the kernel can't limit memory here."""
    try:
        with kernel_limit(64):
            return
    except NoLimit as refusal:
        pytest.skip(str(refusal))


@pytest.fixture(scope="session")
def no_demo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a model that is not a demonstration. Other tests use the shipped one."""
    return str(no_demonstration.copy(tmp_path_factory.mktemp("model") / "model"))


@pytest.fixture(scope="session")
def few_certificates(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a file with one of the usual certificate authorities, for SSL_CERT_FILE.

    Each client of Gemini loads all authorities, which takes 0.06 s of CPU, and tests ask over plain HTTP.
    """
    file, end = tmp_path_factory.mktemp("certificates") / "one.pem", "-----END CERTIFICATE-----\n"
    file.write_text(certifi.contents().partition(end)[0] + end)
    return str(file)


@pytest.fixture
def start(
    storage_url: str, gemini_url: str, database_url: str, no_demo: str, few_certificates: str
) -> Iterator[Callable[..., App]]:
    """Start an instance of the functions on new buckets and a new database; keywords are its variables.

    Its captions are no demonstration's, unless MODEL_FOLDER says so.
    """
    usual = {"DATABASE_URL": database_url, "GEMINI_ENDPOINT": gemini_url, "GEMINI_API_KEY": "any"}
    usual |= {"MODEL_FOLDER": no_demo, "SSL_CERT_FILE": few_certificates}
    # Of this process, which may hold PyTorch as well:
    usual["MEMORY_LIMIT_MB"] = usual["MEMORY_WARNING_MB"] = "32768"
    with ExitStack() as instances:
        yield lambda **settings: instances.enter_context(app(storage_url, **usual | settings))
