"""Where everything is."""

from django.urls import path

from . import inbox, views

urlpatterns = [
    path("orders/", views.place_order),
    path("parcels/", views.parcels),
    path("inbox/", inbox.inbox),
]
