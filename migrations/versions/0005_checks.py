"""Causal checks of stored answers."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checks",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=True),
        sa.Column("attribution_id", sa.String(length=40), nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("dataset_id", sa.String(length=40), nullable=False),
        sa.Column("index_id", sa.String(length=40), nullable=False),
        sa.Column("index_revision", sa.String(length=64), nullable=False),
        sa.Column("study_key", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("config", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("measurement", sa.String(length=40), nullable=False),
        sa.Column("question", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("ranking", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("effects", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("sets", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("outcome", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("new_model_id", sa.String(length=40), nullable=True),
        sa.Column("retrainings", sa.Integer(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("metadata", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checks")),
    )
    with op.batch_alter_table("checks", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_checks_attribution_id_state"), ["attribution_id", "state"], unique=False)
        batch_op.create_index(batch_op.f("ix_checks_index_id_state"), ["index_id", "state"], unique=False)
        batch_op.create_index(batch_op.f("ix_checks_study_key"), ["study_key"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_checks_tenant_created_at_id"), ["tenant", "created_at", "id"], unique=False
        )


def downgrade() -> None:
    with op.batch_alter_table("checks", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_checks_tenant_created_at_id"))
        batch_op.drop_index(batch_op.f("ix_checks_study_key"))
        batch_op.drop_index(batch_op.f("ix_checks_index_id_state"))
        batch_op.drop_index(batch_op.f("ix_checks_attribution_id_state"))
    op.drop_table("checks")
