"""One ORM class a file. Importing this package registers every table on `Base.metadata`."""

from app.tables.alias import AliasRow
from app.tables.api_key import ApiKeyRow
from app.tables.attribution import AttributionRow
from app.tables.audit_event import AuditEventRow
from app.tables.base import DEFAULT_TENANT, Base, new_id, utc_now
from app.tables.batch import BatchRow
from app.tables.check import CheckRow
from app.tables.dataset import DatasetRow
from app.tables.evaluation import EvaluationRow
from app.tables.idempotency_key import IdempotencyKeyRow
from app.tables.index import IndexRow
from app.tables.job import JobRow
from app.tables.job_event import JobEventRow
from app.tables.model import ModelRow

__all__ = [
    "DEFAULT_TENANT",
    "AliasRow",
    "ApiKeyRow",
    "AttributionRow",
    "AuditEventRow",
    "Base",
    "BatchRow",
    "CheckRow",
    "DatasetRow",
    "EvaluationRow",
    "IdempotencyKeyRow",
    "IndexRow",
    "JobEventRow",
    "JobRow",
    "ModelRow",
    "new_id",
    "utc_now",
]
