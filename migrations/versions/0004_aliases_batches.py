"""Aliases; batches; versions of indexes; metadata of models, datasets, indexes and evaluations."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

WITH_METADATA = ("models", "datasets", "evaluations")

# Indexes of one name are counted in the order in which they were made.
NUMBER_INDEXES = """
UPDATE indexes SET version = (
    SELECT count(*) FROM indexes AS earlier
    WHERE earlier.tenant = indexes.tenant AND earlier.name = indexes.name
    AND (earlier.created_at < indexes.created_at
         OR (earlier.created_at = indexes.created_at AND earlier.id <= indexes.id))
) WHERE name IS NOT NULL
"""


def upgrade() -> None:
    for table in WITH_METADATA:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("metadata", sa.JSON(none_as_null=True), nullable=True))
    with op.batch_alter_table("indexes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("version", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("metadata", sa.JSON(none_as_null=True), nullable=True))
    op.execute(NUMBER_INDEXES)
    with op.batch_alter_table("indexes", schema=None) as batch_op:
        batch_op.create_unique_constraint(batch_op.f("uq_indexes_tenant_name_version"), ["tenant", "name", "version"])
    _create_aliases()
    _create_batches()


def _create_aliases() -> None:
    op.create_table(
        "aliases",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("index_id", sa.String(length=40), nullable=False),
        sa.Column("previous_index_id", sa.String(length=40), nullable=True),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["index_id"], ["indexes.id"], name=op.f("fk_aliases_index_id_indexes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_aliases")),
        sa.UniqueConstraint("tenant", "name", name=op.f("uq_aliases_tenant_name")),
    )
    with op.batch_alter_table("aliases", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_aliases_index_id"), ["index_id"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_aliases_tenant_created_at_id"), ["tenant", "created_at", "id"], unique=False
        )


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("defaults", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=True),
        sa.Column("index_id", sa.String(length=40), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("lines", sa.BigInteger(), nullable=False),
        sa.Column("succeeded", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    with op.batch_alter_table("batches", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_batches_index_id_state"), ["index_id", "state"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_batches_tenant_created_at_id"), ["tenant", "created_at", "id"], unique=False
        )


def downgrade() -> None:
    with op.batch_alter_table("batches", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_batches_tenant_created_at_id"))
        batch_op.drop_index(batch_op.f("ix_batches_index_id_state"))
    op.drop_table("batches")
    with op.batch_alter_table("aliases", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_aliases_tenant_created_at_id"))
        batch_op.drop_index(batch_op.f("ix_aliases_index_id"))
    op.drop_table("aliases")
    with op.batch_alter_table("indexes", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("uq_indexes_tenant_name_version"), type_="unique")
        batch_op.drop_column("metadata")
        batch_op.drop_column("version")
    for table in reversed(WITH_METADATA):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("metadata")
