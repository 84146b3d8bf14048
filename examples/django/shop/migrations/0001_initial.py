"""The tables of the shop and of shipping. Outbox and inbox are made by `posthouse outbox migrate`."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """As `manage.py makemigrations` wrote it."""

    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Item",
            fields=[
                ("name", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("stock", models.PositiveIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name="Parcel",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("order", models.BigIntegerField()),
                ("customer", models.CharField(max_length=100)),
            ],
        ),
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("customer", models.CharField(max_length=100)),
                ("item", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="shop.item")),
            ],
        ),
    ]
